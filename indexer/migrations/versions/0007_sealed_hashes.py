"""Hashes sealed at rest: the key that the store is written with, and room for a sealed fingerprint"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("state", sa.Column("sealed_with", sa.String(16), nullable=True))
    if op.get_bind().dialect.name == "postgresql":  # SQLite takes text of any length
        op.alter_column("content", "fingerprint", type_=sa.String(128))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("content", "fingerprint", type_=sa.String(64))
    op.drop_column("state", "sealed_with")
