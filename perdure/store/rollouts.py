"""Rollout jobs, their attempts and rewards in the database. A job is worked on by the process that holds its lease."""

from collections.abc import Sequence

import msgspec

from perdure.core.errors import NotFound
from perdure.core.rollouts import Attempt, Job, JobSpec, JobStatus, RewardGiven
from perdure.store.base import Many, Query, Row, Tx

_json = msgspec.json.Encoder().encode
_spec = msgspec.json.Decoder(JobSpec).decode
_ids = msgspec.json.Decoder(tuple[str, ...]).decode
_reward = msgspec.json.Decoder(RewardGiven).decode


def create_job(job: Job, attempts: Sequence[Attempt]) -> Tx[None]:
    yield Query(
        "insert_rollout_job",
        {
            "id": job.id,
            "agent_id": job.spec.agent_id,
            "status": job.status,
            "created_us": job.created_us,
            "body": _json(job.spec),
        },
    )
    yield Many(
        "insert_rollout",
        [
            {
                "id": attempt.id,
                "job_id": job.id,
                "group_id": attempt.group_id,
                "group_index": attempt.group_index,
                "task_index": attempt.task_index,
                "run_ids": b"[]",
                "now": job.created_us,
            }
            for attempt in attempts
        ],
    )


def job_by_id(job_id: str) -> Tx[Job]:
    rows = yield Query("rollout_job", {"id": job_id})
    if not rows:
        raise NotFound(f"Rollout job {job_id} not found")
    row = rows[0]
    return Job(id=row[0], status=row[1], created_us=row[2], ended_us=row[3], spec=_spec(row[4]))


def attempts_of(job_id: str) -> Tx[list[Attempt]]:
    """In the order of tasks, then of the group."""
    rows = yield Query("rollouts_of_job", {"job_id": job_id})
    return [_attempt(row) for row in rows]


def attempt_by_id(rollout_id: str) -> Tx[Attempt]:
    rows = yield Query("rollout_by_id", {"id": rollout_id})
    if not rows:
        raise NotFound(f"Rollout {rollout_id} not found")
    return _attempt(rows[0])


def attempt_of_agent(agent_id: str) -> Tx[Attempt | None]:
    rows = yield Query("rollout_of_agent", {"agent_id": agent_id})
    return _attempt(rows[0]) if rows else None


def change_attempt(attempt: Attempt, now: int) -> Tx[None]:
    yield Query(
        "change_rollout",
        {
            "id": attempt.id,
            "status": attempt.status,
            "agent_id": attempt.agent_id,
            "run_ids": _json(attempt.run_ids),
            "reward": attempt.reward,
            "error": attempt.error,
            "now": now,
        },
    )


def free_jobs(now: int) -> Tx[list[str]]:
    """Jobs that nobody works on."""
    rows = yield Query("free_rollout_jobs", {"now": now})
    return [row[0] for row in rows]


def take_job(job_id: str, owner: str, until: int, now: int) -> Tx[bool]:
    """Take a job, or keep one that is ours, until then."""
    return bool((yield Query("take_rollout_job", {"id": job_id, "owner": owner, "until": until, "now": now})))


def end_job(job_id: str, status: JobStatus, now: int) -> Tx[bool]:
    """False if it had ended before."""
    return bool((yield Query("end_rollout_job", {"id": job_id, "status": status, "now": now})))


def add_reward(reward: RewardGiven) -> Tx[None]:
    yield Query(
        "insert_reward",
        {
            "id": reward.id,
            "conversation_id": reward.conversation_id,
            "created_us": reward.created_us,
            "body": _json(reward),
        },
    )


def rewards_of(conversation_id: str) -> Tx[list[RewardGiven]]:
    """In the order they were given."""
    rows = yield Query("rewards_of_conversation", {"conversation_id": conversation_id})
    return [_reward(row[0]) for row in rows]


def _attempt(row: Row) -> Attempt:
    return Attempt(
        id=row[0],
        job_id=row[1],
        group_id=row[2],
        group_index=row[3],
        task_index=row[4],
        status=row[5],
        agent_id=row[6],
        run_ids=_ids(row[7]),
        reward=row[8],
        error=row[9],
        updated_us=row[10],
    )
