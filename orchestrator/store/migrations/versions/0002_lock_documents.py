"""Environments keep the lock that clients get. Those that are there already have none."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("environments", sa.Column("document", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("environments", "document")
