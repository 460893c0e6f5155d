"""How often a rollout job was taken up in vain, why one failed, and the stand-ins that its attempts talk to."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("rollout_jobs", sa.Column("takes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("rollout_jobs", sa.Column("error", sa.Text, nullable=True))
    op.create_index("rollouts_news", "rollouts", ["job_id", "updated_us"])
    op.create_table(
        "rollout_copies",
        sa.Column("rollout_id", sa.Text, primary_key=True),
        sa.Column("source_agent_id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
