"""A summary takes the place of the older part of a context, in the commit of the call that wrote it."""

from msgspec import Struct

from perdure.core.errors import StoreError
from perdure.core.messages import Message
from perdure.store.base import Query, Tx
from perdure.store.conversations import conversation_state, set_context
from perdure.store.messages import rewrite_message


class NewContext(Struct, frozen=True, kw_only=True):
    """What a context becomes: `system`, rewritten in place, the summary, and what was in it from the message `kept_from` on
    (None: nothing). Before that, `pinned`: what was in it from one message until before another (None: to its end). The token
    stream breaks for `cause` (`detail`)."""

    system: Message
    summary_id: str
    kept_from: str | None
    pinned: tuple[tuple[str, str | None], ...] = ()
    compiled_revision: int
    cause: str
    detail: str


def replace_context(conversation_id: str, new: NewContext, now: int) -> Tx[None]:
    """The summary is stored already. Kept by stored ids: a history may show several stored messages as one, or leave some out."""
    state = yield from conversation_state(conversation_id)
    tail = yield Query("message_ids_from", {"conversation_id": conversation_id, "from_pos": state.tail_from})
    held = [*state.head_ids, *(row[0] for row in tail if row[0] != new.summary_id)]
    kept = [message_id for span in new.pinned for message_id in _span(held, *span)]
    if new.kept_from is not None:
        kept += _span(held, new.kept_from, None)
    yield from rewrite_message(new.system)
    yield from set_context(
        conversation_id,
        (new.system.id, new.summary_id, *kept),
        cause=f"{new.cause}: {new.detail}",
        compiled_revision=new.compiled_revision,
        now=now,
    )


def _span(held: list[str], first: str, until: str | None) -> list[str]:
    if first not in held or (until is not None and until not in held):
        raise StoreError("The context was replaced by somebody else while a summary of it was written. Send again.")
    return held[held.index(first) : None if until is None else held.index(until)]
