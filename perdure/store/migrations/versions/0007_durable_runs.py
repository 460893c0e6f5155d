"""What outlives a request: callbacks to be delivered, and the keys under which clients asked."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "callbacks",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("due_us", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("sent_us", sa.BigInteger, nullable=True),
        sa.Column("status_code", sa.BigInteger, nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        sa.Column("done", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sqlite_with_rowid=False,
    )
    waiting = sa.text("done = 0")
    op.create_index("callbacks_due", "callbacks", ["due_us"], sqlite_where=waiting, postgresql_where=waiting)
    op.create_table(
        "request_keys",
        sa.Column("conversation_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("request_keys_created", "request_keys", ["created_us"])
