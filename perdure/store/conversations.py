"""Conversations: whose context it is, what it holds, and who may write to it now."""

from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.approvals import Pending
from perdure.core.conversations import Conversation, ConversationSettings
from perdure.core.errors import Conflict, NotFound
from perdure.core.messages import Message
from perdure.store.base import Query, Row, Tx
from perdure.store.messages import context_messages, insert_messages, next_position, rewrite_message

_json = msgspec.json.Encoder().encode
_ids = msgspec.json.Decoder(tuple[str, ...]).decode
_dict = msgspec.json.Decoder(dict[str, Any]).decode
_settings = msgspec.json.Decoder(ConversationSettings).decode
_pending = msgspec.json.Decoder(Pending).decode


class ConversationState(Struct, frozen=True, kw_only=True):
    """A conversation's row as a run needs it. `seen_blocks`: label -> value last shown (append rendering only). `queued`: how
    many runs wait for it. `mark`: which version of its row this is, where the database can tell."""

    id: str
    agent_id: str
    head_ids: tuple[str, ...]
    tail_from: int
    context_version: int
    compiled_revision: int
    fence: int
    agent_revision: int = 0
    segment_id: str | None = None
    break_cause: str | None = None
    active_run_id: str | None = None
    lease_until_us: int = 0
    seen_blocks: dict[str, Any] | None = None
    settings: ConversationSettings = ConversationSettings()
    pending: Pending | None = None
    queued: int = 0
    mark: str | None = None


def run_view(conversation_id: str, row: Row) -> ConversationState:
    return ConversationState(
        id=conversation_id,
        agent_id=row[0],
        head_ids=_ids(row[1]),
        tail_from=row[2],
        context_version=row[3],
        compiled_revision=row[4],
        segment_id=row[5],
        break_cause=row[6],
        active_run_id=row[7],
        lease_until_us=row[8],
        fence=row[9],
        seen_blocks=_dict(row[10]) if row[10] else None,
        settings=_settings(row[11]),
        agent_revision=row[13],
        pending=_pending(row[14]) if row[14] else None,
        queued=row[15],
        mark=row[16],
    )


def conversation_state(conversation_id: str, *, provisional: bool = False) -> Tx[ConversationState]:
    """NotFound for an unknown or deleted conversation. `provisional`: as a query's."""
    rows = yield Query("conversation_for_run", {"id": conversation_id}, provisional=provisional)
    if not rows or rows[0][12] is not None:
        raise missing(conversation_id)
    return run_view(conversation_id, rows[0])


def missing(conversation_id: str) -> NotFound:
    if conversation_id.startswith("agent-"):
        return NotFound("Agent not found")
    return NotFound(f"Conversation {conversation_id} not found")


def create_conversation(
    conversation: Conversation,
    system_message: Message | None,
    compiled_revision: int,
    *,
    shared_ids: tuple[str, ...] = (),
    segment_id: str | None = None,
    break_cause: str | None = None,
) -> Tx[None]:
    """Insert a conversation whose context is its compiled system message, then the stored messages `shared_ids`.

    `segment_id`: the token segment it goes on from, which its first call breaks for `break_cause`.
    """
    if system_message is not None:
        yield from insert_messages((system_message,))
    tail_from = yield from next_position()
    yield Query(
        "insert_conversation",
        {
            "id": conversation.id,
            "agent_id": conversation.agent_id,
            "now": conversation.created_us,
            "compiled_revision": compiled_revision,
            "tail_from": tail_from,
            "head_ids": _json(((system_message.id,) if system_message else ()) + shared_ids),
            "segment_id": segment_id,
            "break_cause": break_cause,
            "summary": conversation.summary,
            "hidden": int(conversation.hidden),
            "body": _json(conversation.settings),
        },
        later=True,
    )


def begin_context(conversation_id: str, head_ids: tuple[str, ...], *, compiled_revision: int, now: int) -> Tx[None]:
    """What a conversation without tokens of its own begins with."""
    tail_from = yield from next_position()
    yield Query(
        "set_context",
        {
            "id": conversation_id,
            "head_ids": _json(head_ids),
            "tail_from": tail_from,
            "compiled_revision": compiled_revision,
            "break_cause": None,
            "now": now,
        },
    )


def set_context(
    conversation_id: str, head_ids: tuple[str, ...], *, cause: str, compiled_revision: int, now: int
) -> Tx[None]:
    """The context becomes exactly these messages; what is said next follows. `cause` is "<cause>: <detail>"."""
    tail_from = yield from next_position()
    yield Query(
        "set_context",
        {
            "id": conversation_id,
            "head_ids": _json(head_ids),
            "tail_from": tail_from,
            "compiled_revision": compiled_revision,
            "break_cause": cause,
            "now": now,
        },
    )


def recompiled(conversation_id: str, system_message: Message | None, compiled_revision: int, cause: str) -> Tx[None]:
    """Store a newly compiled system text in place. None: the text stayed the same, only the revision is noted."""
    if system_message is None:
        yield Query("set_compiled", {"id": conversation_id, "compiled_revision": compiled_revision}, later=True)
        return
    yield from rewrite_message(system_message)
    change = {"id": conversation_id, "compiled_revision": compiled_revision, "break_cause": cause}
    yield Query("recompiled", change, later=True)


def noted_blocks(conversation_id: str, compiled_revision: int, seen_blocks: dict[str, Any]) -> Tx[None]:
    yield Query(
        "set_seen_blocks",
        {"id": conversation_id, "compiled_revision": compiled_revision, "seen_blocks": _json(seen_blocks)},
        later=True,
    )


def take_out_of_context(conversation_id: str, run_ids: tuple[str, ...], now: int) -> Tx[None]:
    """Let the model see nothing of these runs any more; their messages stay on record. Conflict while a run goes on."""
    state = yield from conversation_state(conversation_id)
    if state.active_run_id is not None and state.lease_until_us >= now:
        raise Conflict(
            f"Run {state.active_run_id} took the conversation meanwhile. Send again.", run_id=state.active_run_id
        )
    kept = yield from context_messages(conversation_id, state.head_ids, state.tail_from)
    yield from set_context(
        conversation_id,
        tuple(message.id for message in kept if message.run_id not in run_ids),
        cause=f"edit: taken back: {', '.join(run_ids)}",
        compiled_revision=state.compiled_revision,
        now=now,
    )
