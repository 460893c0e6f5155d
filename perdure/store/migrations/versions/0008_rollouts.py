"""Rollouts: jobs, their attempts, and rewards."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def text(name: str, *, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, primary_key=key)


def integer(name: str, *, null: bool = False, default: int | None = None) -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger, nullable=null, server_default=None if default is None else sa.text(str(default))
    )


def upgrade() -> None:
    op.create_table(
        "rollout_jobs",
        text("id", key=True),
        text("agent_id"),
        text("status"),
        integer("created_us"),
        integer("ended_us", null=True),
        text("lease_owner", null=True),
        integer("lease_until_us", default=0),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("rollout_jobs_created", "rollout_jobs", ["created_us", "id"])
    op.create_table(
        "rollouts",
        text("id", key=True),
        text("job_id"),
        text("group_id"),
        integer("group_index"),
        integer("task_index"),
        text("status"),
        text("agent_id", null=True),
        sa.Column("run_ids", sa.LargeBinary, nullable=False),
        sa.Column("reward", sa.Float(53), nullable=True),
        text("error", null=True),
        integer("updated_us"),
    )
    op.create_index("rollouts_job", "rollouts", ["job_id", "task_index", "group_index"])
    op.create_index("rollouts_agent", "rollouts", ["agent_id"])
    op.create_table(
        "rewards",
        text("id", key=True),
        text("conversation_id"),
        integer("created_us"),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("rewards_conversation", "rewards", ["conversation_id", "created_us"])
