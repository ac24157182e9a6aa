"""Tenants, scopes and expiry of keys; digests that are bound to a pepper; what tenants used in a day"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
_NEW = ("banks", sa.JSON()), ("networks", sa.JSON()), ("expires_at", sa.String(32)), ("pepper_id", sa.String(16)), (
    "previous_digest", sa.LargeBinary()), ("previous_until", sa.String(32))  # fmt: skip


def upgrade() -> None:
    for table in ("bank", "api_key"):  # in place: see 0003
        op.add_column(table, sa.Column("tenant", sa.String(64), server_default="default", nullable=False))
    for name, kind in _NEW:
        op.add_column("api_key", sa.Column(name, kind, nullable=True))
    op.create_table(
        "tenant_use",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "day", name="pk_tenant_use"),
    )


def downgrade() -> None:
    op.drop_table("tenant_use")
    for name, _ in _NEW:
        op.drop_column("api_key", name)
    for table in ("bank", "api_key"):
        op.drop_column(table, "tenant")
