"""Which experts the ids of a call went to, beside the call's own record: it is read only where it is exported."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "routed_experts",
        sa.Column("call_id", sa.Text, primary_key=True),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("routed_experts_conversation", "routed_experts", ["conversation_id"])
