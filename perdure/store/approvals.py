"""Approvals in the database: what a conversation waits for, and what a submission does about it.

Invariant: `conversations.pending` is set by the commit of the step that asks and cleared by the commit that answers its last
call, so it is never at odds with the stored messages, whichever server looks.
"""

from collections.abc import Collection

import msgspec
from msgspec import Struct

from perdure.core import approvals
from perdure.core.approvals import Pending, answered_ids, closing, is_answer, judge, still_waiting
from perdure.core.errors import RequestError
from perdure.core.messages import Message
from perdure.core.runs import Run
from perdure.store.base import Query, Tx
from perdure.store.conversations import ConversationState, conversation_state
from perdure.store.messages import insert_messages, message_by_id

REPLAYS_AMONG = 40

_json = msgspec.json.Encoder().encode
_pending = msgspec.json.Decoder(Pending).decode
_message = msgspec.json.Decoder(Message).decode
_messages = msgspec.json.Decoder(tuple[Message, ...]).decode


class Admission(Struct, frozen=True, kw_only=True):
    """What was stored of a submission, or why nothing was (`refused`).

    `later`: to be stored once the calls are answered. `answering`: the request whose calls this run has to answer now.
    `closed`: a request that was over has been closed before it, so the context has to be read again.
    """

    inputs: tuple[Message, ...] = ()
    later: tuple[Message, ...] = ()
    answering: Pending | None = None
    closed: bool = False
    refused: RequestError | None = None


def admit(run: tuple[str, str], state: ConversationState, inputs: tuple[Message, ...], now: int) -> Tx[Admission]:
    """Store what a run begins with, as far as what its conversation waits for allows. `run`: its id and its agent's."""
    if not inputs:  # it says nothing: what waits may go on waiting
        return Admission()
    if state.pending is None and not is_answer(inputs):
        yield from insert_messages(inputs)
        return Admission(inputs=inputs)
    run_id, agent_id = run
    verdict = judge(state.pending, inputs, now, agent_id=agent_id, conversation_id=state.id)
    if verdict.refused is not None:
        return Admission(refused=verdict.refused)
    answering: Pending | None = None
    if verdict.answers:
        assert state.pending is not None
        answering = msgspec.structs.replace(state.pending, answered_by=run_id)
        yield from set_pending(state.id, answering)
        if verdict.later:
            yield Query("keep_run_input", {"id": run_id, "input": _json(inputs)})
    elif verdict.closed:
        yield from insert_messages(verdict.closed)
        yield from set_pending(state.id, None)
    yield from insert_messages(verdict.inputs)
    return Admission(inputs=verdict.inputs, later=verdict.later, answering=answering, closed=bool(verdict.closed))


def readmit(run_id: str, state: ConversationState, kept: bytes) -> Admission:
    """What an interrupted run still has to do. `kept`: its submission, where part of it is to be stored later.

    Nothing can begin to wait while a run goes on, so one that meets an open request had been refused.
    """
    if state.pending is None:
        return Admission()
    if state.pending.answered_by != run_id:
        return Admission(refused=still_waiting(state.pending))
    return Admission(answering=state.pending, later=_messages(kept)[1:])


def set_pending(conversation_id: str, pending: Pending | None) -> Tx[None]:
    yield Query("set_pending", {"id": conversation_id, "pending": _json(pending) if pending is not None else None})


def forget_request(conversation_id: str, *, but: Collection[str] = ()) -> Tx[None]:
    """Nothing waits any more once the request has left the context, unless it is one of the messages `but`."""
    rows = yield Query("pending_of", {"id": conversation_id})
    if rows and rows[0][0] and _pending(rows[0][0]).request_id not in but:
        yield from set_pending(conversation_id, None)


class Replay(Struct, frozen=True):
    """The answer had been given before, to `run_id`. `again`: what is left to do by a new run (None: nothing, look at that
    run)."""

    run_id: str
    again: tuple[Message, ...] | None = None


def replay_of(state: ConversationState, inputs: tuple[Message, ...]) -> Tx[Replay | None]:
    """Whether a submission repeats an answer that was taken already, whatever it says this time: the first one counts."""
    answer = inputs[0]
    given = set(answered_ids(answer))
    pending = state.pending
    if pending is not None and pending.answered_by is None and given in ({*pending.asked}, {pending.request_id}):
        return None
    rows = yield Query("newest_messages", {"conversation_id": state.id, "limit": REPLAYS_AMONG})
    said = [_message(body) for _, body in rows]
    if asked := next((message for message in said if message.id in given and message.tool_calls), None):
        given = {call.id for call in asked.tool_calls}
    for message in said:
        if message.role == "approval" and not message.tool_calls and set(answered_ids(message)) == given:
            if message.run_id is None or any(each.automatic for each in message.approvals):
                return None
            return (yield from _replay(message.run_id, inputs))
    return (yield from _queued(state.id, answer))


def _replay(run_id: str, inputs: tuple[Message, ...]) -> Tx[Replay]:
    """A run that failed is taken up again; one that goes on or has ended well is looked at."""
    if len(inputs) > 1:
        return Replay(run_id, inputs[1:])
    rows = yield Query("run_row", {"id": run_id})
    return Replay(run_id, () if not rows or rows[0][3] == "failed" else None)


def _queued(conversation_id: str, answer: Message) -> Tx[Replay | None]:
    """The same answer may wait for its turn already."""
    queued = yield Query("queued_runs", {"conversation_id": conversation_id, "limit": REPLAYS_AMONG})
    for (run_id,) in queued:
        rows = yield Query("run_row", {"id": run_id})
        waiting = _messages(rows[0][17])
        if is_answer(waiting) and sorted(answered_ids(waiting[0])) == sorted(answered_ids(answer)):
            return Replay(run_id)
    return None


def cancel_parked(run: Run, now: int) -> Tx[bool]:
    """End what a stopped run waits for: its calls are denied. False if nothing waits for an answer to this run any more."""
    state = yield from conversation_state(run.conversation_id)
    pending = state.pending
    if pending is None or pending.run_id != run.id:
        return False
    if not (yield Query("settle_pending", {"id": state.id, "fence": state.fence, "now": now})):
        return False
    ends = closing(pending, approvals.CANCELLED, agent_id=run.agent_id, conversation_id=run.conversation_id, now=now)
    yield from insert_messages(ends)
    yield Query("cancel_parked_run", {"id": run.id})
    return True


def parked_runs(agent_id: str) -> Tx[list[str]]:
    """The runs whose requests wait for an answer, in all of an agent's conversations."""
    rows = yield Query("pending_of_agent", {"agent_id": agent_id})
    waiting = [_pending(row[1]) for row in rows]
    return [pending.run_id for pending in waiting if pending.answered_by is None]


def parked_run(conversation_id: str) -> Tx[str | None]:
    """The run whose request waits for an answer in a conversation."""
    rows = yield Query("pending_of", {"id": conversation_id})
    pending = _pending(rows[0][0]) if rows and rows[0][0] else None
    return pending.run_id if pending is not None and pending.answered_by is None else None


def pending_request(conversation_id: str, now: int) -> Tx[Message | None]:
    """The approval request that waits for an answer in a conversation."""
    rows = yield Query("pending_of", {"id": conversation_id})
    pending = _pending(rows[0][0]) if rows and rows[0][0] else None
    if pending is None or not pending.waits(now):
        return None
    found = yield from message_by_id(pending.request_id)
    return found[1] if found is not None else None
