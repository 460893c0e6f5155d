"""From the token ledger to `traj/1`: a conversation's segments and calls become one flat, sealed rollout.

Nothing is re-encoded and nothing is guessed: ids, logprobs, causes and offsets are the ledger's own, and a ledger that does
not fit together is a StoreError that names the call, never a record that looks whole. A sampled token is trainable in the
segment whose call sampled it and nowhere else.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.core.errors import StoreError
from perdure.core.messages import Message
from perdure.core.tokens import Segment, TokenCall
from perdure.tokens.builder import Given, RolloutBuilder
from perdure.tokens.record import Status
from perdure.tokens.seal import seal


def rollouts_of(
    segments: Iterable[Segment],
    calls: Iterable[TokenCall],
    messages: Iterable[Message] = (),
    *,
    run_id: str | None = None,
    status: Status = "completed",
    stop_reason: str | None = None,
    given: Given | None = None,
) -> list[dict[str, Any]]:
    """One sealed record a conversation, in the order the segments come; `calls` in the order they were made. Conversations of
    `given.subagents` have no record of their own: their segments are in the others'.

    With `run_id`: that run alone. Its segments are cut after its last call, and earlier runs' calls in them stay as context
    with trainable=false. A conversation without a call to show gives no record. `status` "incomplete" trains nothing.
    """
    joined = frozenset(given.subagents) if given is not None else frozenset[str]()
    by_conversation: dict[str, list[Segment]] = {}
    others: list[Segment] = []
    for segment in segments:
        if segment.conversation_id in joined:
            others.append(segment)
        else:
            by_conversation.setdefault(segment.conversation_id, []).append(segment)
    others = _as_subagents(others)
    said = {message.id: message for message in messages}
    made = list(calls)
    rollouts: list[dict[str, Any]] = []
    for conversation_id, held in by_conversation.items():
        own = [call for call in made if call.conversation_id == conversation_id or call.conversation_id in joined]
        held, own = _cut([*sorted(held, key=lambda segment: segment.index), *others], own, run_id)
        if own:
            builder = RolloutBuilder(held, own, said, run_id=run_id, trains=status != "incomplete")
            rollouts.append(seal(builder.rollout(status, stop_reason, given or Given())))
    return rollouts


def _as_subagents(segments: list[Segment]) -> list[Segment]:
    """Other agents' segments as they are in the record of the attempt they worked for: what begins such a conversation is that
    it was asked, and nothing it was forked from is in the record."""
    known = {segment.id for segment in segments}
    shown: list[Segment] = []
    for segment in sorted(segments, key=lambda each: each.created_us):
        if segment.cause == "root" or segment.parent_segment_id not in known:
            segment = msgspec.structs.replace(
                segment,
                cause="subagent",
                cause_detail=f"agent {segment.agent_id} was asked, in conversation {segment.conversation_id}",
                parent_segment_id=None,
                parent_offset=0,
            )
        shown.append(segment)
    return shown


def _cut(segments: list[Segment], calls: list[TokenCall], run_id: str | None) -> tuple[list[Segment], list[TokenCall]]:
    """The segments that hold a call to show, and the calls in them up to the run's last one."""
    last = {call.segment_id: at for at, call in enumerate(calls) if run_id is None or call.run_id == run_id}
    kept = [call for at, call in enumerate(calls) if at <= last.get(call.segment_id, -1)]
    unknown = {call.segment_id for call in kept} - {segment.id for segment in segments}
    if unknown:
        raise StoreError(f"The token ledger has calls of segments it does not have: {', '.join(sorted(unknown))}.")
    return [segment for segment in segments if segment.id in last], kept
