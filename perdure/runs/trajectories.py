"""Reads the ledger as rollouts: the conversations of an agent, one conversation, or one run.

A record is of one moment: everything it is made from is read in one snapshot.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct

from perdure.core.errors import Invalid, NotFound
from perdure.core.history import joined
from perdure.core.messages import Message
from perdure.core.rollouts import RewardGiven, Task
from perdure.core.tokens import Segment, TokenCall
from perdure.memory.compile import same_for_copies
from perdure.store import agents, conversations, ledger, message_reads
from perdure.store import rollouts as rollout_store
from perdure.store.base import Query, Store, Tx
from perdure.store.runs import run_by_id
from perdure.tokens.builder import Given
from perdure.tokens.record import Reward, Status
from perdure.tokens.trajectory import rollouts_of

Ledger = tuple[list[Segment], list[TokenCall], list[Message], Status, str | None, Given]


class Wanted(Struct, frozen=True, kw_only=True):
    """Which of a job's rollouts, in the order of tasks and groups. `after`: the rollout that the last page ended with."""

    group_id: str | None = None
    statuses: tuple[str, ...] = ()
    min_reward: float | None = None
    max_reward: float | None = None
    after: str | None = None
    limit: int | None = None


async def rollouts(
    store: Store,
    *,
    agent_id: str | None = None,
    run_id: str | None = None,
    conversation_id: str | None = None,
    job_id: str | None = None,
    wanted: Wanted | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """One rollout a conversation, or the run's alone; exactly one of the four is given, else Invalid. `wanted`: of a job.

    NotFound for an id nobody has. Nothing comes for what an engine without token ids answered.
    """
    if [agent_id, run_id, conversation_id, job_id].count(None) != 3:
        raise Invalid("Give exactly one of agent_id, run_id, conversation_id and job_id.", status=422)
    if job_id is not None:
        found = await store.scan(lambda: _conversations_of_job(job_id, wanted or Wanted()))
    else:
        found = await store.scan(lambda: _conversations(agent_id, run_id, conversation_id))
    for conversation in found:
        read = await store.scan(lambda held=conversation: _ledger(held, run_id))
        made = await asyncio.to_thread(_assembled, read, run_id)
        for rollout in made:
            yield rollout


async def conversations_of(
    store: Store,
    *,
    agent_id: str | None = None,
    run_id: str | None = None,
    conversation_id: str | None = None,
    job_id: str | None = None,
) -> list[str]:
    """The conversations that `rollouts` would read. NotFound, Invalid."""
    if [agent_id, run_id, conversation_id, job_id].count(None) != 3:
        raise Invalid("Give exactly one of agent_id, run_id, conversation_id and job_id.", status=422)
    if job_id is not None:
        return await store.scan(lambda: _conversations_of_job(job_id, Wanted()))
    return await store.scan(lambda: _conversations(agent_id, run_id, conversation_id))


async def rollouts_of_either(store: Store, wanted: str) -> AsyncIterator[dict[str, Any]]:
    """As `rollouts`, the kind of thing told from its id."""
    match wanted.partition("-")[0]:
        case "run":
            made = rollouts(store, run_id=wanted)
        case "agent":
            made = rollouts(store, agent_id=wanted)
        case "conv" | "conversation":
            made = rollouts(store, conversation_id=wanted)
        case "job":
            made = rollouts(store, job_id=wanted)
        case _:
            raise Invalid(
                f"{wanted!r} is the id of no agent, run, conversation or rollout job: it begins with agent-, run-, conv- or job-."
            )
    async for rollout in made:
        yield rollout


def _assembled(read: Ledger, run_id: str | None) -> list[dict[str, Any]]:
    segments, calls, said, status, stop_reason, given = read
    return rollouts_of(segments, calls, said, run_id=run_id, status=status, stop_reason=stop_reason, given=given)


def _conversations_of_job(job_id: str, wanted: Wanted) -> Tx[list[str]]:
    yield from rollout_store.job_by_id(job_id)
    attempts = yield from rollout_store.attempts_of(job_id)
    if wanted.after is not None:
        at = next((at for at, attempt in enumerate(attempts) if attempt.id == wanted.after), None)
        if at is None:
            raise NotFound(f"after: job {job_id} has no rollout {wanted.after}")
        attempts = attempts[at + 1 :]
    found = [
        attempt.agent_id
        for attempt in attempts
        if attempt.agent_id is not None
        and attempt.status != "pending"
        and (wanted.group_id is None or attempt.group_id == wanted.group_id)
        and (not wanted.statuses or attempt.status in wanted.statuses)
        and (wanted.min_reward is None or (attempt.reward is not None and attempt.reward >= wanted.min_reward))
        and (wanted.max_reward is None or (attempt.reward is not None and attempt.reward <= wanted.max_reward))
    ]
    return found[: wanted.limit]


def _conversations(agent_id: str | None, run_id: str | None, conversation_id: str | None) -> Tx[list[str]]:
    if run_id is not None:
        return [(yield from run_by_id(run_id)).conversation_id]
    if agent_id is not None:
        yield from agents.check_agent(agent_id)
        rows = yield Query("exported_conversations", {"agent_id": agent_id})
        return [row[0] for row in rows]
    if conversation_id is None:
        raise NotFound("No conversation given")
    return [(yield from conversations.conversation_state(conversation_id)).id]


def _ledger(conversation_id: str, run_id: str | None) -> Tx[Ledger]:
    segments = yield from ledger.segments_of_conversation(conversation_id)
    calls = yield from _calls(conversation_id)
    said = yield from message_reads.list_messages(conversation_id=conversation_id, limit=None)
    if run_id is not None:
        run = yield from run_by_id(run_id)
        given = yield from _given(conversation_id, run_id, said, segments)
        return segments, calls, _as_written(said), status_of(run.status, run.stop_reason), run.stop_reason, given
    rows = yield Query("newest_run_of_conversation", {"conversation_id": conversation_id})
    status, reason = rows[0] if rows else ("completed", None)
    given = yield from _given(conversation_id, None, said, segments)
    for other in given.subagents:
        segments = [*segments, *(yield from ledger.segments_of_conversation(other))]
        calls = [*calls, *(yield from _calls(other))]
        said = [*said, *(yield from message_reads.list_messages(conversation_id=other, limit=None))]
    calls = sorted(calls, key=lambda call: call.created_us) if given.subagents else calls
    return segments, calls, _as_written(said), status_of(status, reason), reason, given


def _calls(conversation_id: str) -> Tx[list[TokenCall]]:
    calls = yield from ledger.calls_of_conversation(conversation_id)
    return (yield from ledger.with_experts(conversation_id, calls))


def _as_written(said: list[Message]) -> list[Message]:
    """A step that waited for approval is stored in two: its record is of the one message the model wrote."""
    whole: list[Message] = []
    for message in said:
        before = whole[-1] if whole else None
        asks = message.role == "approval" and message.tool_calls
        if asks and before is not None and before.role == "assistant" and before.step_id == message.step_id:
            whole[-1] = joined(before, message)
        whole.append(message)
    return whole


def _given(conversation_id: str, run_id: str | None, said: list[Message], segments: list[Segment]) -> Tx[Given]:
    """Whose attempt it was, and its rewards: those that were given, then what people said of steps and of tool calls.

    A person's signal has a weight of its own only where a trainer gives it one: it is 0 here.
    """
    attempt = yield from rollout_store.attempt_of_agent(conversation_id)
    rewards = [
        _reward(given)
        for given in (yield from rollout_store.rewards_of(conversation_id))
        if run_id is None or given.run_id in (None, run_id)
    ]
    rows = yield Query("feedback_of_conversation", {"conversation_id": conversation_id})
    rewards += [
        Reward(
            name="feedback",
            value=1.0 if feedback == "positive" else -1.0,
            weight=0.0,
            scope="call",
            target_id=step_id,
            source="person",
        )
        for step_id, of_run, feedback in rows
        if run_id is None or of_run == run_id
    ]
    rewards += [
        Reward(
            name="approval",
            value=1.0 if approval.approve else -1.0,
            weight=0.0,
            scope="call",
            target_id=approval.tool_call_id,
            source="person",
            at=message.created_us,
        )
        for message in said
        for approval in message.approvals
        if run_id is None or message.run_id == run_id
    ]
    if attempt is None:
        return Given(rewards=tuple(rewards))
    job = yield from rollout_store.job_by_id(attempt.job_id)
    task = job.spec.tasks[attempt.task_index]
    return Given(
        rollout_id=attempt.id,
        group_id=attempt.group_id,
        group_index=attempt.group_index,
        group_size=job.spec.group_size,
        task={"id": task.id, "hash": task_hash(task), "metadata": task.metadata},
        rewards=tuple(rewards),
        subagents=(yield from _subagents(attempt.id, conversation_id)),
        system_text=_system_text(said, segments),
    )


def _subagents(rollout_id: str, conversation_id: str) -> Tx[tuple[str, ...]]:
    """The other conversations of an attempt: those that copies of other agents had for it, and asides of its own agent."""
    found: list[str] = []
    for agent_id in (yield from rollout_store.copies_in(rollout_id)):
        rows = yield Query("exported_conversations", {"agent_id": agent_id})
        found += [row[0] for row in rows if row[0] != conversation_id]
    return tuple(found)


def _system_text(said: list[Message], segments: list[Segment]) -> str | None:
    """The compiled prompt that the first segment was rendered with; None once it was written anew."""
    if not segments or segments[0].system_sha256 is None:
        return None
    texts = (message.text for message in said if message.role == "system")
    wanted = segments[0].system_sha256
    found = next(
        (text for text in texts if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() == wanted), None
    )
    return None if found is None else same_for_copies(found, segments[0].agent_id)


def task_hash(task: Task) -> str:
    """SHA-256 of what the agent is asked, so that groups of one task are told from groups of another of the same name."""
    return hashlib.sha256(json.dumps(task.turns, ensure_ascii=False).encode()).hexdigest()


def _reward(given: RewardGiven) -> Reward:
    target = given.step_id or given.run_id
    return Reward(
        name=given.name,
        value=given.value,
        weight=given.weight,
        scope="call" if given.step_id is not None else "rollout",
        target_id=target,
        source=given.source,
        at=given.created_us,
    )


def status_of(status: str, stop_reason: str | None) -> Status:
    """A run's state as a rollout's."""
    if stop_reason in ("max_steps", "max_tokens_exceeded"):
        return "truncated"
    ended: dict[str, Status] = {"completed": "completed", "failed": "failed", "cancelled": "aborted"}
    return ended.get(status, "incomplete")
