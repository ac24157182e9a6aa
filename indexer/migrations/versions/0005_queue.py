"""Rescans that are queued for workers: their items and results, until they were handed over"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "queued_rescan",
        sa.Column("rescan_id", sa.String(32), nullable=False),
        sa.Column("banks", sa.JSON(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("submitted", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("rescan_id", name="pk_queued_rescan"),
    )
    for table, column in (("queued_item", "request"), ("queued_result", "result")):
        op.create_table(
            table,
            sa.Column("rescan_id", sa.String(32), nullable=False),
            sa.Column("number", sa.Integer(), nullable=False),
            sa.Column(column, sa.Text(), nullable=False),
            sa.ForeignKeyConstraint(["rescan_id"], ["queued_rescan.rescan_id"], ondelete="CASCADE"),
            sa.PrimaryKeyConstraint("rescan_id", "number", name=f"pk_{table}"),
        )
    op.create_table(
        "queue_schema",
        sa.Column("name", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_queue_schema"),
    )


def downgrade() -> None:
    for table in ("queue_schema", "queued_result", "queued_item", "queued_rescan"):
        op.drop_table(table)
