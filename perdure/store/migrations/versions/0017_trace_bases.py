"""What requests are kept against, so that a step's trace holds only what was new in its request."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "trace_bases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("trace_bases_agent", "trace_bases", ["agent_id"])
    op.create_index("trace_bases_created", "trace_bases", ["created_us"])
    op.add_column("provider_traces", sa.Column("base_id", sa.Text))
