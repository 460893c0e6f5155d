"""Rollouts over HTTP: start a job, watch it, read it, end it; give rewards to anything that was ever said."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from perdure.api.errors import json_response
from perdure.api.services import services
from perdure.api.to_wire import iso
from perdure.core.errors import Invalid, NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.rollouts import ENDED, Attempt, Job, JobSpec, RewardGiven, RewardSpec, Task
from perdure.store import rollouts as rollout_store
from perdure.store.agents import agent_by_id
from perdure.store.base import Tx
from perdure.store.conversations import conversation_state
from perdure.store.messages import message_by_id
from perdure.store.runs import run_by_id
from perdure.store.steps import step_by_id

router = APIRouter(tags=["rollouts"])

MAX_ROLLOUTS = 100_000
LOOK_S = 1.0
PAUSE_S = 0.1  # what ends at nearly the same time is looked up at once
OVERLAP_US = 10_000_000  # a change is seen later than its own time, by its commit and by another server's clock


class TaskIn(BaseModel):
    """Give `input`, or `turns` for several messages of the user in a row."""

    model_config = ConfigDict(extra="forbid")
    id: str | None = None
    input: str | None = None
    turns: list[str] | None = None
    metadata: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_of(self) -> "TaskIn":
        if (self.input is None) == (not self.turns):
            raise ValueError("give either `input` or `turns`, and only one of them")
        return self


class RewardIn(BaseModel):
    """`source_code` with a function `reward(rollout)`, or a judge's `url`."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    weight: float = 1.0
    source_code: str | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "RewardIn":
        if (self.source_code is None) == (self.url is None):
            raise ValueError("give either `source_code` or `url`, and only one of them")
        return self


class RolloutsIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    agent_id: str
    tasks: list[TaskIn] = Field(min_length=1)
    conversation_id: str | None = None
    from_message_id: str | None = None
    group_size: int = Field(1, ge=1, le=1024)
    max_concurrency: int = Field(16, ge=1, le=4096)
    max_steps: int = Field(50, ge=1)
    model: str | None = None
    model_settings: dict[str, Any] = {}
    memory_rendering: Literal["append", "recompile"] = "append"
    rewards: list[RewardIn] = []


class RewardOfIn(BaseModel):
    """What is scored: one of `rollout_id`, `run_id`, `step_id`, `message_id` and `conversation_id`."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    value: Annotated[float, Field(allow_inf_nan=False)]
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    source: str | None = None
    rollout_id: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    message_id: str | None = None
    conversation_id: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "RewardOfIn":
        given = [self.rollout_id, self.run_id, self.step_id, self.message_id, self.conversation_id]
        if given.count(None) != 4:
            raise ValueError("give exactly one of rollout_id, run_id, step_id, message_id and conversation_id")
        return self


@router.post("/rollouts", operation_id="create_rollouts")
async def create(request: Request, body: RolloutsIn) -> Response:
    """`group_size` attempts at each task, each by a copy of the agent as it stands (or stood at `from_message_id`)."""
    parts = services(request)
    if len(body.tasks) * body.group_size > MAX_ROLLOUTS:
        raise Invalid(f"tasks: a job may have {MAX_ROLLOUTS} rollouts; start several", status=422)
    agent = await parts.store.read(lambda: agent_by_id(body.agent_id))
    if body.conversation_id is not None:
        conversation_id = body.conversation_id
        state = await parts.store.read(lambda: conversation_state(conversation_id))
        if state.agent_id != agent.id:
            raise NotFound(f"conversation_id: {conversation_id} is not a conversation of {agent.id}")
    await parts.registry.resolve(body.model or agent.model, settings=agent.model_settings)
    spec = JobSpec(
        agent_id=agent.id,
        tasks=tuple(
            Task(id=task.id or str(at), turns=tuple(task.turns or (task.input or "",)), metadata=task.metadata)
            for at, task in enumerate(body.tasks)
        ),
        conversation_id=body.conversation_id,
        from_message_id=body.from_message_id,
        group_size=body.group_size,
        max_concurrency=body.max_concurrency,
        max_steps=body.max_steps,
        model=body.model,
        settings=_settings(body.model_settings),
        memory_rendering=body.memory_rendering,
        rewards=tuple(RewardSpec(**reward.model_dump()) for reward in body.rewards),
    )
    job = await parts.rollouts.submit(spec)
    return json_response(await _job_json(request, job), 201)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    from perdure.core.agents import ModelSettings

    known = set(ModelSettings.__struct_fields__) - {"raw"}
    if unknown := sorted(set(given) - known):
        raise Invalid(f"model_settings.{unknown[0]}: is not known; use {', '.join(sorted(known))}", status=422)
    try:
        msgspec.convert(given, ModelSettings)
    except msgspec.ValidationError as error:
        raise Invalid(f"model_settings: {error}", status=422) from error
    return given


@router.get("/rollouts/{job_id}", operation_id="retrieve_rollouts")
async def retrieve(request: Request, job_id: str, rollouts: bool = True) -> Response:
    """The job, how far it is, and each of its rollouts, unless `rollouts` is false."""
    job = await services(request).store.read(lambda: rollout_store.job_by_id(job_id))
    return json_response(await _job_json(request, job, rollouts=rollouts))


@router.post("/rollouts/{job_id}/cancel", operation_id="cancel_rollouts")
async def cancel(request: Request, job_id: str) -> Response:
    job = await services(request).rollouts.cancel(job_id)
    return json_response(await _job_json(request, job))


@router.get("/rollouts/{job_id}/stream", operation_id="stream_rollouts")
async def stream(request: Request, job_id: str) -> Response:
    """Server-sent events: each rollout as it ends (those that have ended first), then the job, then `[DONE]`."""
    await services(request).store.read(lambda: rollout_store.job_by_id(job_id))
    return StreamingResponse(_progress(request, job_id), media_type="text/event-stream")


async def _progress(request: Request, job_id: str) -> AsyncIterator[bytes]:
    parts = services(request)
    told: set[str] = set()
    since = 0
    while True:
        job = await parts.store.read(lambda: rollout_store.job_by_id(job_id))
        for attempt in await parts.store.scan(lambda since=since: rollout_store.attempts_changed(job_id, since)):
            since = max(since, attempt.updated_us - OVERLAP_US)
            if attempt.status in ENDED and attempt.id not in told:
                told.add(attempt.id)
                yield _frame({"message_type": "rollout", **rollout_json(attempt, job)})
        if job.status != "running":
            yield _frame({"message_type": "job", **(await _job_json(request, job, rollouts=False))})
            yield b"data: [DONE]\n\n"
            return
        await parts.rollouts.news(job_id, LOOK_S)
        await asyncio.sleep(PAUSE_S)
        yield b": waiting\n\n"  # a quiet stream is given up by clients and proxies


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


async def _job_json(request: Request, job: Job, *, rollouts: bool = True) -> dict[str, Any]:
    store = services(request).store
    progress = await store.read(lambda: rollout_store.progress_of(job.id))
    answer: dict[str, Any] = {
        "id": job.id,
        "agent_id": job.spec.agent_id,
        "status": job.status,
        "created_at": iso(job.created_us),
        "ended_at": iso(job.ended_us),
        "group_size": job.spec.group_size,
        "tasks": len(job.spec.tasks),
        "counts": progress.counts,
        "mean_reward": progress.mean_reward,
        "error": job.error,
    }
    if rollouts:
        attempts = await store.scan(lambda: rollout_store.attempts_of(job.id))
        answer["rollouts"] = [rollout_json(attempt, job) for attempt in attempts]
    return answer


def rollout_json(attempt: Attempt, job: Job) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "job_id": attempt.job_id,
        "group_id": attempt.group_id,
        "group_index": attempt.group_index,
        "task_id": job.spec.tasks[attempt.task_index].id,
        "status": attempt.status,
        "agent_id": attempt.agent_id,
        "run_ids": list(attempt.run_ids),
        "reward": attempt.reward,
        "error": attempt.error,
    }


@router.post("/rewards", operation_id="create_reward")
async def reward(request: Request, body: RewardOfIn) -> Response:
    """A score for anything on record, at once or days later; it is in every export from then on."""
    given = await services(request).store.write(lambda: _give(body))
    return json_response(msgspec.to_builtins(given), 201)


def _give(body: RewardOfIn) -> Tx[RewardGiven]:
    conversation_id, run_id, step_id, message_id = body.conversation_id, body.run_id, body.step_id, body.message_id
    if body.rollout_id is not None:
        attempt = yield from rollout_store.attempt_by_id(body.rollout_id)
        if attempt.agent_id is None:
            raise Invalid(f"rollout_id: {attempt.id} has not begun; there is nothing to score yet")
        conversation_id = attempt.agent_id
    elif message_id is not None:
        found = yield from message_by_id(message_id)
        if found is None:
            raise NotFound(f"message_id: there is no message {message_id}")
        message = found[1]
        conversation_id, run_id, step_id = message.conversation_id, message.run_id, message.step_id
    elif step_id is not None:
        step = yield from step_by_id(step_id)
        conversation_id, run_id = step.conversation_id, step.run_id
    elif run_id is not None:
        conversation_id = (yield from run_by_id(run_id)).conversation_id
    assert conversation_id is not None
    yield from conversation_state(conversation_id)
    given = RewardGiven(
        id=new_id("reward"),
        conversation_id=conversation_id,
        name=body.name,
        value=body.value,
        weight=body.weight,
        run_id=run_id,
        step_id=step_id,
        message_id=message_id,
        source=body.source or "api",
        created_us=now_us(),
    )
    yield from rollout_store.add_reward(given)
    attempt = yield from rollout_store.attempt_of_agent(conversation_id)
    if attempt is not None:
        rewards = yield from rollout_store.rewards_of(conversation_id)
        total = sum(each.value * each.weight for each in rewards)
        yield from rollout_store.change_attempt(msgspec.structs.replace(attempt, reward=total), now_us())
    return given
