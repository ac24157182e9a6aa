"""Sketches: local descriptors of frames"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "sketch",
        sa.Column("sketch_pk", _KEY, nullable=False),
        sa.Column("content_pk", _KEY, nullable=False),
        sa.Column("timestamp_s", sa.Float(), nullable=True),
        sa.Column("until_s", sa.Float(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["content_pk"], ["content.content_pk"], name=op.f("fk_sketch_content_pk_content"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sketch_pk", name=op.f("pk_sketch")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("sketch") as batch:
        batch.create_index(batch.f("ix_sketch_content_pk"), ["content_pk"])


def downgrade() -> None:
    op.drop_table("sketch")
