"""Model calls that wait for a provider's batch, and the batches handed in to providers."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def text(name: str, *, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, primary_key=key)


def integer(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


def upgrade() -> None:
    op.create_table(
        "batch_calls",
        text("id", key=True),
        text("batch_id"),
        text("run_id"),
        text("conversation_id"),
        text("status"),
        text("grp"),
        text("provider_batch_id", null=True),
        text("place"),
        integer("number"),
        integer("created_us"),
        integer("due_us"),
        integer("size"),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=True),
    )
    op.create_index("batch_calls_run", "batch_calls", ["run_id"])
    op.create_index("batch_calls_provider_batch", "batch_calls", ["provider_batch_id"])
    unsettled = sa.text("status IN ('waiting', 'answered')")
    op.create_index(
        "batch_calls_open", "batch_calls", ["status", "created_us"], sqlite_where=unsettled, postgresql_where=unsettled
    )
    op.create_table(
        "provider_batches",
        text("id", key=True),
        text("batch_id"),
        text("status"),
        integer("due_us"),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    going = sa.text("status = 'going'")
    op.create_index(
        "provider_batches_going", "provider_batches", ["due_us"], sqlite_where=going, postgresql_where=going
    )
    op.create_index("provider_batches_batch", "provider_batches", ["batch_id"])
