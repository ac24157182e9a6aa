"""Banks of two persons, sources of contents, and requests to export"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
_NEW = ("source_pk", sa.Integer()), ("proposed_by", sa.String(64)), ("approved_by", sa.String(64))


def upgrade() -> None:
    op.add_column("bank", sa.Column("two_persons", sa.Boolean(), server_default=sa.false(), nullable=False))
    for name, kind in _NEW:  # in place: see 0003
        op.add_column("content", sa.Column(name, kind, nullable=True))
    op.create_index("ix_content_source_pk", "content", ["source_pk"])
    op.create_table(
        "source",
        sa.Column("source_pk", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("source_pk", name="pk_source"),
        sa.UniqueConstraint("tenant", "name", name="uq_source_tenant"),
    )
    op.create_table(
        "export",
        sa.Column("export_id", sa.String(32), nullable=False),
        sa.Column("bank_pk", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.String(64), nullable=False),
        sa.Column("requested_at", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.String(32), nullable=False),
        sa.Column("approved_by", sa.String(64), nullable=True),
        sa.Column("used_at", sa.String(32), nullable=True),
        sa.ForeignKeyConstraint(["bank_pk"], ["bank.bank_pk"], name="fk_export_bank_pk_bank", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("export_id", name="pk_export"),
    )


def downgrade() -> None:
    op.drop_table("export")
    op.drop_table("source")
    op.drop_index("ix_content_source_pk", "content")
    for name, _ in _NEW:
        op.drop_column("content", name)
    op.drop_column("bank", "two_persons")
