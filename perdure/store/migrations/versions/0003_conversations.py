"""Conversations beside an agent's own history: what lists need to know of them, their blocks, the messages forks share.

`private_blocks` are the copies of blocks a conversation has for itself. `shared_messages` are messages a fork shows that were
said elsewhere, at their position in the fork's order; its own begin after them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for column in (
        sa.Column("summary", sa.Text, nullable=True),
        sa.Column("hidden", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("archived_us", sa.BigInteger, nullable=True),
        sa.Column("last_run_us", sa.BigInteger, nullable=True),
    ):
        op.add_column("conversations", column)
    beside = sa.text("id <> agent_id")
    op.create_index(
        "conversations_created", "conversations", ["created_us", "id"], sqlite_where=beside, postgresql_where=beside
    )
    gone = sa.text("deleted_us IS NOT NULL")
    op.create_index("conversations_deleted", "conversations", ["id"], sqlite_where=gone, postgresql_where=gone)
    op.create_table(
        "private_blocks",
        sa.Column("conversation_id", sa.Text, primary_key=True),
        sa.Column("block_id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("private_blocks_block", "private_blocks", ["block_id"])
    op.create_table(
        "shared_messages",
        sa.Column("conversation_id", sa.Text, primary_key=True),
        sa.Column("pos", sa.BigInteger, primary_key=True),
        sa.Column("message_id", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("shared_messages_message", "shared_messages", ["message_id", "conversation_id"])
