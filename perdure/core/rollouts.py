"""Rollouts: attempts of an agent at tasks, in groups, with rewards.

A *job* asks for `group_size` attempts at each of its tasks. Each attempt is a rollout: a copy of the agent's whole state goes
through the task's turns on its own.
"""

from typing import Any, Literal

from msgspec import Struct

JobStatus = Literal["running", "completed", "failed", "cancelled"]
AttemptStatus = Literal["pending", "running", "completed", "truncated", "failed", "cancelled"]
ENDED: frozenset[str] = frozenset({"completed", "truncated", "failed", "cancelled"})


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`turns`: what the user says, one run each, in order. `metadata` reaches the reward functions and the record."""

    id: str
    turns: tuple[str, ...]
    metadata: dict[str, Any] = {}


class RewardSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What scores an attempt: Python source with a function `reward(rollout)`, run in the sandbox, or a judge's `url`."""

    name: str
    weight: float = 1.0
    source_code: str | None = None
    url: str | None = None


class JobSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`from_message_id`: the last message the copies are to have, else all of the conversation's context.

    `settings`: fields of the agent's model settings that are others here, such as the temperature. `base_id`: the copy, taken
    when the job was accepted, that all its attempts begin as.
    """

    agent_id: str
    tasks: tuple[Task, ...]
    conversation_id: str | None = None
    from_message_id: str | None = None
    group_size: int = 1
    max_concurrency: int = 16
    max_steps: int = 50
    model: str | None = None
    settings: dict[str, Any] = {}
    memory_rendering: Literal["append", "recompile"] = "append"
    rewards: tuple[RewardSpec, ...] = ()
    base_id: str | None = None


class Job(Struct, frozen=True, kw_only=True):
    """Times are microseconds since the epoch. `takes`: how often it was taken up since an attempt last came to its end;
    `error`: why it failed."""

    id: str
    spec: JobSpec
    status: JobStatus
    created_us: int
    ended_us: int | None = None
    takes: int = 0
    error: str | None = None


class Attempt(Struct, frozen=True, kw_only=True):
    """One rollout. `agent_id`: its copy of the agent, once there is one; `reward`: the weighted sum of its rewards."""

    id: str
    job_id: str
    group_id: str
    group_index: int
    task_index: int
    status: AttemptStatus = "pending"
    agent_id: str | None = None
    run_ids: tuple[str, ...] = ()
    reward: float | None = None
    error: str | None = None
    updated_us: int = 0


class RewardGiven(Struct, frozen=True, kw_only=True):
    """A score, of a whole conversation or of one run, step or message in it; given at once or days later."""

    id: str
    conversation_id: str
    name: str
    value: float
    weight: float = 1.0
    run_id: str | None = None
    step_id: str | None = None
    message_id: str | None = None
    source: str | None = None
    created_us: int = 0
