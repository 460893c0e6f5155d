"""Messages that a compaction has to leave in the context word for word, as a person asked. Pure.

Invariant: a pin takes what belongs to its message along: a call stays with its returns, and an answer with what it answers, so
that what stays can be sent to every provider.
"""

from collections.abc import Collection, Sequence

import msgspec

from perdure.core.ids import preceding_id
from perdure.core.messages import Message
from perdure.loop.cuts import Sizes


def pinned_positions(messages: Sequence[Message], pins: Collection[str]) -> frozenset[int]:
    """The places in a context that stay: the pinned messages, with their calls, returns, and what they answer."""
    if not pins:
        return frozenset()
    stay: set[int] = set()
    for at, message in enumerate(messages):
        if message.role != "summary" and _named(message, pins):
            stay.update(_together(messages, at))
    return frozenset(stay)


def apart(sizes: Sizes, pinned: Collection[int]) -> Sizes:
    """The sizes with what is pinned among that which always stays."""
    if not pinned:
        return sizes
    each = tuple(0.0 if at in pinned else size for at, size in enumerate(sizes.each))
    fixed = sizes.fixed + sum(sizes.each[at] for at in pinned)
    return msgspec.structs.replace(sizes, fixed=fixed, each=each, pinned=frozenset(pinned))


def _named(message: Message, pins: Collection[str]) -> bool:
    """A step that waited for approval stands in a context as one message; its request has an id of its own."""
    return message.id in pins or (message.parked is not None and preceding_id(message.id) in pins)


def _together(messages: Sequence[Message], at: int) -> range:
    """From the step that the message is of to the last of its returns; words alone, from what they answer."""
    first = at
    while first > 0 and messages[first].role == "tool":
        first -= 1
    last = first
    while last + 1 < len(messages) and messages[last + 1].role == "tool":
        last += 1
    if messages[first].role == "assistant" and not messages[first].tool_calls and first > 0:
        asked = messages[first - 1].role
        first -= asked in ("user", "system")
    return range(first, last + 1)


def staying(messages: Sequence[Message], sizes: Sizes, cut: int) -> list[Message]:
    """What is pinned of the messages before the cut."""
    return [messages[at] for at in sorted(sizes.pinned) if at < cut]


def spans(messages: Sequence[Message], sizes: Sizes, cut: int) -> tuple[tuple[str, str | None], ...]:
    """The same by ids: from which message until before which (None: to the end), as some are stored as several."""
    found: list[tuple[str, str | None]] = []
    for at in sorted(sizes.pinned):
        if at >= cut or at - 1 in sizes.pinned:
            continue
        end = at + 1
        while end < cut and end in sizes.pinned:
            end += 1
        found.append((messages[at].id, messages[end].id if end < len(messages) else None))
    return tuple(found)
