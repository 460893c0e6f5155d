"""Where a conversation may be cut in two: what is summarised, and what stays as it is. Pure.

Invariant: a cut never parts a tool call from its answer, never takes away a call that still waits for one, nor a message the
agent has not answered yet.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from perdure.core.messages import ImagePart, Message, TextPart

STEP = 0.1
IMAGE_CHARS = 3_000


class Sizes(Struct, frozen=True, kw_only=True):
    """Tokens: `fixed` of what always stays (system prompt, tools, template), `each` of every message.

    `basis`: "counted" by the model's tokenizer; "shared": the provider's own total, shared out by length; "unknown": lengths
    alone, four characters a token. `pinned`: the places of messages that stay wherever the cut is; they count as fixed.
    """

    fixed: float
    each: tuple[float, ...]
    basis: Literal["counted", "shared", "unknown"]
    pinned: frozenset[int] = frozenset()

    @property
    def total(self) -> float:
        return self.fixed + sum(self.each)


class Room(Struct, frozen=True, kw_only=True):
    """Tokens. `tail`: what messages kept as they are should take, `most`: what they may take at the very most; `summary`:
    what a summary is expected to take."""

    tail: float
    most: float
    summary: int


def room_in(window: int, fixed: float, share: float) -> Room:
    """A compaction leaves (1 - share) of the window used at most; where the fixed part alone comes near that, half of what is
    left. A small window gets a small summary."""
    summary = max(48, min(window // 8, 2_048))
    usable = 0.9 * window
    target = max((1 - share) * window, fixed + (usable - fixed) / 2)
    return Room(tail=max(0.0, target - fixed - summary), most=max(0.0, usable - fixed - 2 * summary), summary=summary)


def cut_at(messages: Sequence[Message], sizes: Sizes, share: float, room: Room) -> int:
    """How many messages from the front a sliding window gives up: at least `share` of them, and ten percent more each time
    until the rest fits. 0: no cut is good enough, everything has to go."""
    cuts, count = legal_cuts(messages), _given_up(sizes, len(messages))
    evicted = share
    while cuts and evicted < 1.0:
        at = next((cut for cut in cuts if _given_up(sizes, cut) >= round(evicted * count)), 0)
        if at == 0:
            break
        if sum(sizes.each[at:]) <= room.tail and worth_it(messages, sizes, at, room):
            return at
        evicted += STEP
    # among its tools the model should keep the last answer before its eyes, if that fits at all
    if cuts and messages[-1].role == "tool" and sum(sizes.each[cuts[-1] :]) <= room.most:
        return cuts[-1] if worth_it(messages, sizes, cuts[-1], room) else 0
    return 0


def legal_cuts(messages: Sequence[Message]) -> list[int]:
    """The places where the kept part may begin: at what the model said, with no call on one side and its answer on the other."""
    closed = _call_spans(messages)
    last = min((start for start, end in closed if end == len(messages)), default=len(messages))
    last = min(last, unanswered_from(messages))
    found: list[int] = []
    for at in range(1, min(last, len(messages) - 1) + 1):
        spoken = messages[at].role == "assistant" or _asks(messages[at])
        if spoken and not any(start < at <= end for start, end in closed):
            found.append(at)
    return found


def cut_of_all(messages: Sequence[Message]) -> int:
    """How many messages go when everything goes that may: all but open calls and messages without an answer."""
    waiting = [start for start, end in _call_spans(messages) if end == len(messages)]
    return min([unanswered_from(messages), *waiting])


def unanswered_from(messages: Sequence[Message]) -> int:
    """Where the messages begin that nothing answers yet; the number of messages if the model or a tool spoke last."""
    at = len(messages)
    while at > 0 and messages[at - 1].role in ("user", "system"):
        at -= 1
    return at


def worth_it(messages: Sequence[Message], sizes: Sizes, at: int, room: Room) -> bool:
    """Whether a summary in place of messages[:at] makes the context smaller."""
    gone = [message for place, message in enumerate(messages[:at]) if place not in sizes.pinned]
    anything_new = any(message.role != "summary" for message in gone)
    return anything_new and (len(gone) >= 2 or sum(sizes.each[:at]) > 2 * room.summary)


def _given_up(sizes: Sizes, at: int) -> int:
    """How many messages a cut takes away."""
    return at - sum(place < at for place in sizes.pinned)


def _call_spans(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """For each call, from the message that made it to the last that speaks of it; to the end where it still waits.

    Ids are unique among open calls only: some providers begin again with every answer.
    """
    spans: list[tuple[int, int | None]] = []
    latest: dict[str, int] = {}
    for at, message in enumerate(messages):
        for call in message.tool_calls:
            latest[call.id] = len(spans)
            spans.append((at, None))
        for answer in (*message.tool_returns, *message.approvals):
            if (index := latest.get(answer.tool_call_id)) is not None:
                spans[index] = (spans[index][0], at)
    return [(start, _end(messages, start) if end is None else end) for start, end in spans]


def _end(messages: Sequence[Message], start: int) -> int:
    """Of a call without an answer: it waits for one, unless the model has gone on without."""
    asked = messages[start].step_id
    went_on = any(
        (later.role == "assistant" or _asks(later)) and later.step_id != asked for later in messages[start + 1 :]
    )
    return start if went_on else len(messages)


def _asks(message: Message) -> bool:
    return message.role == "approval" and bool(message.tool_calls)


def message_length(message: Message) -> int:
    """Characters of a message's words, calls and answers; an image counts as IMAGE_CHARS."""
    total = sum(len(call.name) + len(call.arguments) for call in message.tool_calls) + _length(message.content)
    for answer in message.tool_returns:
        content = answer.content
        total += len(content) if isinstance(content, str) else _length(content)
    return total


def _length(parts: Sequence[Any]) -> int:
    return sum(
        IMAGE_CHARS if isinstance(part, ImagePart) else len(part.text) if isinstance(part, TextPart) else 0
        for part in parts
    )
