"""Keys that are stopped for a while"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("stopped_until", sa.String(32), nullable=True))


def downgrade() -> None:
    op.drop_column("api_key", "stopped_until")
