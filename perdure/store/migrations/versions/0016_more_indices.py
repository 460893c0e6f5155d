"""Indices for what was looked for among all runs, steps, segments and archives."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_index("runs_conversation", "runs", ["conversation_id", "created_us"])
    op.create_index("steps_created", "steps", ["created_us", "id"])
    op.create_index("segments_agent", "segments", ["agent_id"])
    made_for = sa.text("made_for IS NOT NULL")
    op.create_index("archives_made_for", "archives", ["made_for"], sqlite_where=made_for, postgresql_where=made_for)
