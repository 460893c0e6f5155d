"""The first schema: agents and their memory, conversations and messages, runs and steps, the event log, the token ledger.

Ids are text, times microseconds since the epoch. `body` columns hold a core value as JSON bytes; whatever a query filters,
orders or updates by itself has a column of its own.

What a message writes is kept to few b-trees: in SQLite its tables are clustered by their key (`sqlite_with_rowid=False`), and
every index has to earn its place, as each costs a page of the write-ahead log in every commit.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def text(name: str, *, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, primary_key=key)


def integer(name: str, *, null: bool = False, default: int | None = None) -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger, nullable=null, server_default=None if default is None else sa.text(str(default))
    )


def blob(name: str, *, null: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=null)


def position() -> sa.Column[int]:
    """Grows with every insert: the order of messages and the cursor of their listings."""
    return sa.Column("pos", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)


def upgrade() -> None:
    _agents()
    _conversations()
    _runs()
    _tokens()
    _archives()


def _agents() -> None:
    op.create_table(
        "agents",
        text("id", key=True),
        text("name"),
        integer("created_us"),
        integer("updated_us"),
        integer("revision", default=1),
        integer("last_run_completed_us", null=True),
        integer("last_run_duration_ms", null=True),
        text("last_stop_reason", null=True),
        text("project_id", null=True),
        integer("hidden", default=0),
        blob("body"),
    )
    op.create_index("agents_created", "agents", ["created_us", "id"])
    op.create_table(
        "blocks",
        text("id", key=True),
        text("label"),
        text("value"),
        text("description", null=True),
        integer("created_us"),
        integer("updated_us"),
        integer("version", default=1),
        text("project_id", null=True),
        integer("hidden", default=0),
        integer("is_template", default=0),
        text("template_name", null=True),
        blob("body"),
    )
    op.create_index("blocks_created", "blocks", ["created_us", "id"])
    op.create_index("blocks_label", "blocks", ["label"])
    op.create_table(
        "agent_blocks",
        text("agent_id", key=True),
        text("block_id", key=True),
        text("label"),
        integer("position"),
        sqlite_with_rowid=False,
    )
    op.create_index("agent_blocks_block", "agent_blocks", ["block_id"])
    op.create_index("agent_blocks_label", "agent_blocks", ["agent_id", "label"], unique=True)
    op.create_table(
        "tools",
        text("id", key=True),
        text("name"),
        text("tool_type"),
        integer("created_us"),
        integer("updated_us"),
        blob("body"),
    )
    op.create_index("tools_name", "tools", ["name"], unique=True)
    op.create_index("tools_created", "tools", ["created_us", "id"])
    op.create_table(
        "agent_tools",
        text("agent_id", key=True),
        text("tool_id", key=True),
        integer("position"),
        sqlite_with_rowid=False,
    )
    op.create_index("agent_tools_tool", "agent_tools", ["tool_id"])
    op.create_table(
        "tags",
        text("kind", key=True),
        text("entity_id", key=True),
        text("tag", key=True),
        integer("position", default=0),
        sqlite_with_rowid=False,
    )
    op.create_index("tags_tag", "tags", ["kind", "tag", "entity_id"])


def _conversations() -> None:
    op.create_table(
        "conversations",
        text("id", key=True),
        text("agent_id"),
        integer("created_us"),
        integer("updated_us"),
        integer("last_message_us", null=True),
        integer("deleted_us", null=True),
        integer("context_version", default=1),
        integer("compiled_revision", default=0),
        integer("tail_from", default=0),
        blob("head_ids"),
        text("segment_id", null=True),
        text("break_cause", null=True),
        text("active_run_id", null=True),
        text("lease_owner", null=True),
        integer("lease_until_us", default=0),
        integer("fence", default=0),
        blob("seen_blocks", null=True),
        blob("body"),
    )
    op.create_index("conversations_agent", "conversations", ["agent_id", "created_us"])
    op.create_table(
        "messages",
        position(),
        text("id"),
        text("agent_id"),
        text("conversation_id"),
        text("run_id", null=True),
        blob("body"),
    )
    op.create_index("messages_id", "messages", ["id"], unique=True)
    op.create_index("messages_conversation", "messages", ["conversation_id", "pos"])
    op.create_index("messages_agent", "messages", ["agent_id", "pos"])
    op.create_index("messages_run", "messages", ["run_id", "pos"])
    op.create_table(
        "otids",
        text("conversation_id", key=True),
        text("otid", key=True),
        text("run_id"),
        integer("created_us"),
        sqlite_with_rowid=False,
    )


def _runs() -> None:
    op.create_table(
        "runs",
        text("id", key=True),
        text("agent_id"),
        text("conversation_id"),
        text("status"),
        integer("background", default=0),
        integer("created_us"),
        integer("completed_us", null=True),
        text("stop_reason", null=True),
        integer("cancel_requested", default=0),
        integer("attempts", default=0),
        integer("step_count", default=0),
        integer("context_tokens", null=True),
        integer("ttft_ns", null=True),
        integer("total_duration_ns", null=True),
        blob("config"),
        blob("input"),
        blob("usage", null=True),
        blob("error", null=True),
        blob("metadata", null=True),
        sqlite_with_rowid=False,
    )
    op.create_index("runs_created", "runs", ["created_us", "id"])
    op.create_index("runs_agent", "runs", ["agent_id", "created_us"])
    active = sa.text("status IN ('created', 'running')")
    op.create_index(
        "runs_active", "runs", ["conversation_id", "created_us"], sqlite_where=active, postgresql_where=active
    )
    op.create_table(
        "run_events",
        text("run_id", key=True),
        sa.Column("first_seq", sa.BigInteger, primary_key=True),
        integer("last_seq"),
        blob("body"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "steps",
        text("id", key=True),
        text("run_id"),
        text("agent_id"),
        integer("created_us"),
        text("model", null=True),
        text("feedback", null=True),
        blob("body"),
        sqlite_with_rowid=False,
    )
    op.create_index("steps_run", "steps", ["run_id", "created_us"])
    op.create_index("steps_agent", "steps", ["agent_id", "created_us"])
    op.create_table(
        "provider_traces",
        text("step_id", key=True),
        integer("created_us"),
        blob("request"),
        blob("response"),
        sqlite_with_rowid=False,
    )


def _tokens() -> None:
    op.create_table(
        "segments", text("id", key=True), text("conversation_id"), text("agent_id"), integer("idx"), blob("body")
    )
    op.create_index("segments_conversation", "segments", ["conversation_id", "idx"])
    op.create_table(
        "calls",
        position(),
        text("id"),
        text("segment_id"),
        text("conversation_id"),
        text("run_id"),
        text("step_id"),
        blob("body"),
    )
    op.create_index("calls_segment", "calls", ["segment_id", "pos"])
    op.create_index("calls_run", "calls", ["run_id", "pos"])
    op.create_index("calls_conversation", "calls", ["conversation_id", "pos"])


def _archives() -> None:
    op.create_table(
        "passages",
        position(),
        text("id"),
        text("agent_id"),
        integer("created_us"),
        text("text"),
        blob("body"),
    )
    op.create_index("passages_id", "passages", ["id"], unique=True)
    op.create_index("passages_agent", "passages", ["agent_id", "created_us", "id"])
    op.create_table("search_state", text("name", key=True), integer("last_pos", default=0))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("CREATE VIRTUAL TABLE passages_fts USING fts5(text)")
        op.execute(
            "CREATE TRIGGER passage_in AFTER INSERT ON passages BEGIN "
            "INSERT INTO passages_fts (rowid, text) VALUES (new.pos, new.text); END"
        )
        op.execute(
            "CREATE TRIGGER passage_out AFTER DELETE ON passages BEGIN "
            "DELETE FROM passages_fts WHERE rowid = old.pos; END"
        )
        op.execute("CREATE VIRTUAL TABLE messages_fts USING fts5(text)")
