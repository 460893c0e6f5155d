"""Rollout jobs, their attempts and rewards in the database. A job is worked on by the process that holds its lease."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.core.errors import LeaseLost, NotFound
from perdure.core.rollouts import ENDED, Attempt, Job, JobSpec, JobStatus, RewardGiven
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
    return Job(
        id=row[0], status=row[1], created_us=row[2], ended_us=row[3], spec=_spec(row[4]), takes=row[5], error=row[6]
    )


def attempts_of(job_id: str) -> Tx[list[Attempt]]:
    """In the order of tasks, then of the group."""
    rows = yield Query("rollouts_of_job", {"job_id": job_id})
    return [_attempt(row) for row in rows]


def attempts_changed(job_id: str, since: int) -> Tx[list[Attempt]]:
    """Those that something happened to at `since` or later."""
    rows = yield Query("rollouts_changed", {"job_id": job_id, "since": since})
    return [_attempt(row) for row in rows]


class Progress(Struct, frozen=True):
    """How many attempts have which status, and the mean of the rewards there are."""

    counts: dict[str, int]
    mean_reward: float | None


def progress_of(job_id: str) -> Tx[Progress]:
    rows = yield Query("rollout_counts", {"job_id": job_id})
    scored = sum(row[2] for row in rows)
    total = sum(row[3] for row in rows if row[3] is not None)
    return Progress({row[0]: row[1] for row in rows}, total / scored if scored else None)


def attempt_by_id(rollout_id: str) -> Tx[Attempt]:
    rows = yield Query("rollout_by_id", {"id": rollout_id})
    if not rows:
        raise NotFound(f"Rollout {rollout_id} not found")
    return _attempt(rows[0])


def attempt_of_agent(agent_id: str) -> Tx[Attempt | None]:
    rows = yield Query("rollout_of_agent", {"agent_id": agent_id})
    return _attempt(rows[0]) if rows else None


def change_attempt(attempt: Attempt, now: int) -> Tx[None]:
    if attempt.status in ENDED:
        yield Query("rollout_job_moved", {"id": attempt.job_id})
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


def take_job(job_id: str, owner: str, until: int, now: int) -> Tx[int | None]:
    """Take a job that nobody works on, until then. Answers its `takes`; None: somebody has it, or it has ended."""
    rows = yield Query("take_rollout_job", {"id": job_id, "owner": owner, "until": until, "now": now})
    return rows[0][0] if rows else None


def keep_job(job_id: str, owner: str, until: int) -> Tx[bool]:
    """False: it has ended, or another has it."""
    return bool((yield Query("keep_rollout_job", {"id": job_id, "owner": owner, "until": until})))


def check_kept(job_id: str, owner: str) -> Tx[None]:
    """LeaseLost unless the job goes on and is this owner's."""
    if not (yield Query("rollout_job_is_kept", {"id": job_id, "owner": owner})):
        raise LeaseLost(f"Rollout job {job_id} has ended, or another server works on it.")


def leave_job(job_id: str, owner: str) -> Tx[None]:
    """Let others take it up at once."""
    yield Query("leave_rollout_job", {"id": job_id, "owner": owner})


def end_job(job_id: str, status: JobStatus, now: int) -> Tx[bool]:
    """False if it had ended before."""
    return bool((yield Query("end_rollout_job", {"id": job_id, "status": status, "now": now, "error": None})))


def break_off(
    job_id: str, status: Literal["cancelled", "failed"], now: int, *, error: str | None = None
) -> Tx[list[str]]:
    """End a job with all attempts that have not ended. Answers which those are."""
    yield Query("end_rollout_job", {"id": job_id, "status": status, "now": now, "error": error})
    rows = yield Query("end_rollouts", {"job_id": job_id, "status": status, "now": now, "error": error})
    return [row[0] for row in rows]


def add_copy(rollout_id: str, source_agent_id: str, agent_id: str) -> Tx[bool]:
    """Note the copy that stands in for an agent in a rollout. False if there is one already."""
    params = {"rollout_id": rollout_id, "source_agent_id": source_agent_id, "agent_id": agent_id}
    return bool((yield Query("add_rollout_copy", params)))


def copy_in(rollout_id: str, agent_id: str) -> Tx[str | None]:
    """Who stands in for an agent in a rollout; a copy stands for itself."""
    rows = yield Query("rollout_copy", {"rollout_id": rollout_id, "agent_id": agent_id})
    return rows[0][0] if rows else None


def copies_in(rollout_id: str) -> Tx[list[str]]:
    """All copies made for a rollout, its own agent among them."""
    rows = yield Query("rollout_copies", {"rollout_id": rollout_id})
    return [row[0] for row in rows]


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
