"""What is done by one process for all (`leases`), how far old event logs are deleted, and batches of requests.

`cleanup` is how far a cleaning has come; `cleanup_left` the runs it passed by because they had not ended then.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def text(name: str, *, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, primary_key=key)


def integer(name: str, *, null: bool = False, key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null, primary_key=key, autoincrement=False)


def upgrade() -> None:
    op.create_table("leases", text("name", key=True), text("owner"), integer("until_us"), sqlite_with_rowid=False)
    op.create_table("cleanup", text("name", key=True), integer("at_us"), text("at_id"), sqlite_with_rowid=False)
    op.create_table("cleanup_left", text("run_id", key=True), sqlite_with_rowid=False)
    told = sa.text("done = 1")
    op.create_index("callbacks_done", "callbacks", ["sent_us"], sqlite_where=told, postgresql_where=told)
    op.create_table(
        "batches",
        text("id", key=True),
        text("status"),
        integer("created_us"),
        integer("updated_us"),
        integer("completed_us", null=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("batches_created", "batches", ["created_us", "id"])
    going = sa.text("status IN ('created', 'running')")
    op.create_index("batches_open", "batches", ["created_us"], sqlite_where=going, postgresql_where=going)
    op.create_table(
        "batch_items",
        text("batch_id", key=True),
        integer("position", key=True),
        text("id"),
        text("agent_id"),
        text("status"),
        text("run_id", null=True),
        text("error", null=True),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    unsettled = sa.text("status IN ('waiting', 'running')")
    op.create_index(
        "batch_items_open",
        "batch_items",
        ["status", "batch_id", "position"],
        sqlite_where=unsettled,
        postgresql_where=unsettled,
    )
