"""Messages that are sent by the clock, and what became of each tick."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("next_us", sa.BigInteger, nullable=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("schedules_agent", "schedules", ["agent_id", "created_us"])
    waiting = sa.text("next_us IS NOT NULL")
    op.create_index("schedules_next", "schedules", ["next_us"], sqlite_where=waiting, postgresql_where=waiting)
    op.create_table(
        "schedule_ticks",
        sa.Column("schedule_id", sa.Text, primary_key=True),
        sa.Column("due_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("run_id", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    firing = sa.text("status = 'firing'")
    op.create_index("ticks_firing", "schedule_ticks", ["at_us"], sqlite_where=firing, postgresql_where=firing)
