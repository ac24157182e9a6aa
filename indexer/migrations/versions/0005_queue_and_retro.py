"""Rescans that are queued for workers; hashes of checked media that are kept for some days, and what they matched"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


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
    op.create_table(
        "retro_signal",
        sa.Column("retro_pk", _KEY, nullable=False),
        sa.Column("retro_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("reference", sa.String(200), nullable=True),
        sa.Column("kept_at", sa.String(32), nullable=False),
        sa.Column("banks", sa.JSON(), nullable=True),
        sa.Column("known", sa.JSON(), nullable=False),
        sa.Column("media", sa.JSON(), nullable=False),
        sa.Column("frames", sa.LargeBinary(), nullable=False),
        sa.Column("exact", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("retro_pk", name="pk_retro_signal"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_retro_signal_kept_at", "retro_signal", ["kept_at"])
    op.create_table(
        "retro_mark",
        sa.Column("mark_pk", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("mark_pk", name="pk_retro_mark"),
    )
    op.create_table(
        "retro_match",
        sa.Column("match_pk", _KEY, nullable=False),
        sa.Column("retro_id", sa.String(32), nullable=False),
        sa.Column("content_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("reference", sa.String(200), nullable=True),
        sa.Column("checked_at", sa.String(32), nullable=False),
        sa.Column("found_at", sa.String(32), nullable=False),
        sa.Column("match", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("match_pk", name="pk_retro_match"),
        sa.UniqueConstraint("retro_id", "content_id", name="uq_retro_match_retro_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_retro_match_found_at", "retro_match", ["found_at"])


def downgrade() -> None:
    for table in (
        "retro_match",
        "retro_mark",
        "retro_signal",
        "queue_schema",
        "queued_result",
        "queued_item",
        "queued_rescan",
    ):
        op.drop_table(table)
