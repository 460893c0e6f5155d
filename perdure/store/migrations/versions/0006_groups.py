"""Groups of agents: their members in order, and the conversations members have in them.

`turns` and `last_message_id` are a sleeptime group's progress; they change without the group's agents being told.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("manager_type", sa.Text, nullable=False),
        sa.Column("manager_agent_id", sa.Text, nullable=True),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.Column("project_id", sa.Text, nullable=True),
        sa.Column("hidden", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("turns", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("last_message_id", sa.Text, nullable=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("groups_manager", "groups", ["manager_agent_id"], unique=True)
    op.create_index("groups_created", "groups", ["created_us", "id"])
    op.create_table(
        "group_agents",
        sa.Column("group_id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("group_agents_agent", "group_agents", ["agent_id"])
    op.create_table(
        "group_conversations",
        sa.Column("conversation_id", sa.Text, primary_key=True),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("group_conversations_group", "group_conversations", ["group_id", "agent_id"])
