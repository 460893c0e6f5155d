"""Reads the ledger as rollouts: the conversations of an agent, one conversation, or one run.

A record is of one moment: everything it is made from is read in one snapshot.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from perdure.core.errors import Invalid, NotFound
from perdure.core.messages import Message
from perdure.core.tokens import Segment, TokenCall
from perdure.store import agents, conversations, ledger, message_reads
from perdure.store.base import Query, Store, Tx
from perdure.store.runs import run_by_id
from perdure.tokens.record import Status
from perdure.tokens.trajectory import rollouts_of

Ledger = tuple[list[Segment], list[TokenCall], list[Message], Status, str | None]


async def rollouts(
    store: Store, *, agent_id: str | None = None, run_id: str | None = None, conversation_id: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """One rollout a conversation, or the run's alone; exactly one of the three is given, else Invalid.

    NotFound for an id nobody has. Nothing comes for what an engine without token ids answered.
    """
    if [agent_id, run_id, conversation_id].count(None) != 2:
        raise Invalid("Give exactly one of agent_id, run_id and conversation_id.", status=422)
    for conversation in await store.scan(lambda: _conversations(agent_id, run_id, conversation_id)):
        read = await store.scan(lambda held=conversation: _ledger(held, run_id))
        made = await asyncio.to_thread(_assembled, read, run_id)
        for rollout in made:
            yield rollout


async def rollouts_of_either(store: Store, wanted: str) -> AsyncIterator[dict[str, Any]]:
    """As `rollouts`, the kind of thing told from its id."""
    names = {"run": "run_id", "agent": "agent_id", "conv": "conversation_id", "conversation": "conversation_id"}
    name = names.get(wanted.partition("-")[0])
    if name is None:
        raise Invalid(f"{wanted!r} is the id of no agent, run or conversation: it begins with agent-, run- or conv-.")
    async for rollout in rollouts(store, **{name: wanted}):
        yield rollout


def _assembled(read: Ledger, run_id: str | None) -> list[dict[str, Any]]:
    segments, calls, said, status, stop_reason = read
    return rollouts_of(segments, calls, said, run_id=run_id, status=status, stop_reason=stop_reason)


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
    calls = yield from ledger.calls_of_conversation(conversation_id)
    said = yield from message_reads.list_messages(conversation_id=conversation_id, limit=None)
    if run_id is not None:
        run = yield from run_by_id(run_id)
        return segments, calls, said, status_of(run.status, run.stop_reason), run.stop_reason
    rows = yield Query("newest_run_of_conversation", {"conversation_id": conversation_id})
    status, reason = rows[0] if rows else ("completed", None)
    return segments, calls, said, status_of(status, reason), reason


def status_of(status: str, stop_reason: str | None) -> Status:
    """A run's state as a rollout's."""
    if stop_reason in ("max_steps", "max_tokens_exceeded"):
        return "truncated"
    ended: dict[str, Status] = {"completed": "completed", "failed": "failed", "cancelled": "aborted"}
    return ended.get(status, "incomplete")
