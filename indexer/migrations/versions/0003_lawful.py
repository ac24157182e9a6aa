"""Lawful banks, companions, and how companions look where contents were sketched"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Columns are added in place: to rebuild `content` would delete, by its foreign keys, every hash.
    op.add_column("bank", sa.Column("lawful", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("bank", sa.Column("suppresses", sa.JSON(), nullable=True))
    op.add_column("content", sa.Column("lawful_of", _KEY, nullable=True))
    op.create_index("ix_content_lawful_of", "content", ["lawful_of"])
    op.create_table(
        "contrast",
        sa.Column("contrast_pk", _KEY, nullable=False),
        sa.Column("sketch_pk", _KEY, nullable=False),
        sa.Column("content_pk", _KEY, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sketch_pk"], ["sketch.sketch_pk"], name=op.f("fk_contrast_sketch_pk_sketch"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["content_pk"], ["content.content_pk"], name=op.f("fk_contrast_content_pk_content"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("contrast_pk", name=op.f("pk_contrast")),
    )
    op.create_index("ix_contrast_sketch_pk", "contrast", ["sketch_pk"])
    op.create_index("ix_contrast_content_pk", "contrast", ["content_pk"])


def downgrade() -> None:
    op.drop_table("contrast")
    op.drop_index("ix_content_lawful_of", "content")
    op.drop_column("content", "lawful_of")
    op.drop_column("bank", "suppresses")
    op.drop_column("bank", "lawful")
