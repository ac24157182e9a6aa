"""Holds: why a hash or a sketch is kept out of matching, and whether a reviewer released it"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("signal", "sketch"):  # in place: see 0003
        op.add_column(table, sa.Column("held", sa.String(16), nullable=True))
        op.add_column(table, sa.Column("released", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    for table in ("signal", "sketch"):
        op.drop_column(table, "released")
        op.drop_column(table, "held")
