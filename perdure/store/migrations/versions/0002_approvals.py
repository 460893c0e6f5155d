"""Approvals and client-side tools: what a conversation waits for (`core/approvals.py`, as JSON); NULL: nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("pending", sa.LargeBinary, nullable=True))
