"""Messages as the bytes of a request, encoded once a message, for every API whose context is a list of JSON objects.

Invariant: stored messages never change, so the bytes of one are kept by its id (within a bound) and a request body is
joined bytes: a long history costs a look-up a message, not an encoding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.core.messages import Message, Part, ToolCall, ToolReturn
from perdure.core.model import ToolSpec
from perdure.core.weighed import Weighed

DEFAULT_CACHE_BYTES = 32 * 1024 * 1024
KEEP_FROM = 16
MOST_PIECES = 128
KEPT_BYTES = 32 * 1024 * 1024
KEPT_MESSAGE = 600  # of what a kept list holds, beside its bytes
NOT_JSON = "not valid JSON; the model wrote"

_encode = msgspec.json.Encoder().encode


class ByteCache:
    """Bytes by key, at most about `limit` of them in all.

    Two generations: what the old one still has when asked moves to the young one; a full young one becomes the old one.
    So a hit costs one look-up and no bookkeeping, and what is not asked for is forgotten within two generations.
    """

    def __init__(self, limit: int = DEFAULT_CACHE_BYTES) -> None:
        self._half = limit // 2
        self._young: dict[Any, bytes] = {}
        self._old: dict[Any, bytes] = {}
        self._size = 0

    def get(self, key: Any) -> bytes | None:
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: Any, value: bytes) -> None:
        size = len(value) + 200  # the entry itself
        if size > self._half:
            return
        if self._size + size > self._half:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[key] = value
        self._size += size


class _Kept(NamedTuple):
    """The first `length` messages of one list in pieces. `messages` keeps the list's id from being given to another."""

    messages: Sequence[Message]
    length: int
    last_id: str
    pieces: list[bytes]


class ContextBytes:
    """The context as JSON objects and the commas between them, in pieces: whoever joins them with the rest of a request copies a
    long history once.

    `objects`: what one message is. `approval_response`: what an approver's answer is, given the ids of the calls that tool
    messages of the context answer; it is the one kind whose form depends on the rest. `between`: what must stand between two
    messages, for an API that does not take every order.
    """

    def __init__(
        self,
        objects: Callable[[Message], Iterable[dict[str, Any]]],
        approval_response: Callable[[Message, set[str]], Iterable[dict[str, Any]]],
        cache: ByteCache | None = None,
        between: Callable[[Message, Message], bytes] | None = None,
    ) -> None:
        self._objects = objects
        self._between = between
        self._approval_response = approval_response
        self._cache = cache or ByteCache()
        self._kept: Weighed[int, _Kept] = Weighed(KEPT_BYTES)

    def pieces(self, messages: Sequence[Message]) -> list[bytes]:
        """A conversation's list only grows between its calls, so the pieces are kept, and most of them joined, for the next."""
        known = self._kept.pop(id(messages))
        start, pieces = 0, list[bytes]()
        if known is not None and known.length <= len(messages) and messages[known.length - 1].id == known.last_id:
            start, pieces = known.length, known.pieces
        get, lasting, between = self._cache.get, True, self._between
        for at, message in enumerate(messages[start:], start):
            if between is not None and at and (filler := between(messages[at - 1], message)):
                _add(pieces, filler)
            found = get(message.id)
            if found is None:
                found = self._encoded(message, messages)
            if found:
                _add(pieces, found)
            lasting = lasting and not depends_on_context(message)
        if lasting and len(messages) >= KEEP_FROM:
            if len(pieces) > MOST_PIECES:
                pieces = [b"".join(pieces)]
            weight = 2 * sum(map(len, pieces)) + KEPT_MESSAGE * len(messages)
            self._kept.put(id(messages), _Kept(messages, len(messages), messages[-1].id, pieces), weight)
        return pieces.copy()

    def _encoded(self, message: Message, context: Sequence[Message]) -> bytes:
        if depends_on_context(message):
            return b",".join(_encode(each) for each in self._approval_response(message, answered_in(context)))
        encoded = b",".join(_encode(each) for each in self._objects(message))
        if message.id:
            self._cache.put(message.id, encoded)
        return encoded


def _add(pieces: list[bytes], piece: bytes) -> None:
    if pieces:
        pieces.append(b",")
    pieces.append(piece)


class ToolBytes:
    """The JSON array of the tools. The steps of a run share one list, so the last one's bytes are kept."""

    def __init__(self, tool: Callable[[ToolSpec], dict[str, Any]]) -> None:
        self._tool = tool
        self._last: tuple[Sequence[ToolSpec], bytes] | None = None

    def array(self, tools: Sequence[ToolSpec]) -> bytes:
        if self._last is not None and self._last[0] is tools:
            return self._last[1]
        encoded = _encode([self._tool(spec) for spec in tools])
        self._last = (tools, encoded)
        return encoded


def depends_on_context(message: Message) -> bool:
    """An approver's answer shows only where no tool message answers the call."""
    return message.role == "approval" and not message.tool_calls


def answered_in(context: Sequence[Message]) -> set[str]:
    return {each.tool_call_id for other in context if other.role == "tool" for each in other.tool_returns}


def returns_shown(message: Message, answered: set[str]) -> Iterator[ToolReturn]:
    """What an approver's answer says to the model: a client's own returns, and each denial as a failed return."""
    open_returns = [each for each in message.tool_returns if each.tool_call_id not in answered]
    yield from open_returns
    closed = answered | {each.tool_call_id for each in open_returns}
    for approval in message.approvals:
        if not approval.approve and approval.tool_call_id not in closed:
            reason = f" Reason: {approval.reason}" if approval.reason else ""
            denied = f"Error: the request to call the tool was denied.{reason}"
            yield ToolReturn(approval.tool_call_id, "", "error", denied)


def in_order(message: Message) -> list[Part | ToolCall]:
    """The parts and calls of an answer, each where it came."""
    end = len(message.content)
    first = end if message.calls_at is None else message.calls_at
    whole: list[Part | ToolCall] = []
    calls = list(message.tool_calls)
    for at, part in enumerate(message.content):
        while calls and (first if calls[0].at is None else calls[0].at) <= at:
            whole.append(calls.pop(0))
        whole.append(part)
    return [*whole, *calls]


def is_json_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def json_arguments(arguments: str) -> str:
    """A call's arguments as the text of a JSON object: what does not parse is wrapped, so that the model sees it again."""
    if not arguments:
        return "{}"
    return arguments if is_json_object(arguments) else _encode({NOT_JSON: arguments}).decode()
