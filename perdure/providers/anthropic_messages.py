"""A context as the Messages API wants it: turns that alternate, made of content blocks, as bytes.

Invariant: every tool call is answered in the very next user turn, before anything else in it; no block is empty; thinking goes
back only to the provider that signed it. What a message says is encoded once and kept by its id.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.core.messages import (
    HiddenReasoningPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolReturn,
)
from perdure.core.weighed import Weighed
from perdure.providers.message_bytes import (
    KEPT_BYTES,
    KEPT_MESSAGE,
    ByteCache,
    answered_in,
    depends_on_context,
    json_arguments,
    returns_shown,
)

CACHE_MARK = b',"cache_control":{"type":"ephemeral"}}'
NOTHING_YET = "(Nothing was said before this.)"
GO_ON = "(Go on.)"
RECENT_TURNS = 4
NO_ANSWER = "Error: no answer to this call is on record."

_encode = msgspec.json.Encoder().encode
_BAD_ID = re.compile(r"[^a-zA-Z0-9_-]")


class Results(NamedTuple):
    """The tool results one message holds: the ids of their calls, their bytes, and the returns themselves."""

    ids: tuple[str, ...]
    encoded: bytes
    returns: tuple[ToolReturn, ...]


class Turn:
    """Consecutive messages of one side. `calls`: the ids of the tools it calls. `thinks`: it begins with signed thinking."""

    __slots__ = ("blocks", "calls", "results", "role", "thinks")

    def __init__(self, role: str) -> None:
        self.role = role
        self.results: list[Results] = []
        self.blocks: list[bytes] = []
        self.calls: list[str] = []
        self.thinks = False


class Context(NamedTuple):
    """`pieces`: the JSON array, to be joined with the rest of the request, so that a long history is copied once.
    `thinking_missing`: the model is in the middle of a turn that did not begin with thinking."""

    pieces: list[bytes]
    thinking_missing: bool


class _Turns:
    """The first `length` messages of one list, as turns. Of all but the last turns only the bytes are left (`settled`), and the
    turn before those that are left (`before`). `messages` keeps the list's id from being given to another."""

    __slots__ = ("before", "last_id", "length", "messages", "recent", "settled", "size")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.length = 0
        self.last_id = ""
        self.size = 0
        self.settled = b""
        self.before: Turn | None = None
        self.recent: list[Turn] = []

    def turn(self, role: str) -> Turn:
        """The turn a message of this side belongs to."""
        recent = self.recent
        if not recent and self.before is None and role != "user":
            recent.append(_said(NOTHING_YET))
        if not recent or recent[-1].role != role:
            recent.append(Turn(role))
        return recent[-1]


class TurnEncoder:
    """Encodes for one provider. `provider`: its name, the first part of the handles that wrote the messages it may get its
    signatures back from. `addresses`: it fetches images by their address."""

    def __init__(self, provider: str, *, addresses: bool = True, cache: ByteCache | None = None) -> None:
        self._prefix = f"{provider}/"
        self._addresses = addresses
        self._cache = cache or ByteCache()
        self._kept: Weighed[int, _Turns] = Weighed(KEPT_BYTES)

    def context(self, messages: Sequence[Message], *, marks: bool) -> Context:
        """`marks`: put cache breakpoints at the end of the last user turn and of the one before it, where the last call had
        its own: so each call finds what the call before it left in the cache, however much came in between."""
        turns = self._turns(messages)
        last = list(turns.recent)
        if not last:
            last.append(_said(NOTHING_YET))
        if last[-1].role != "user":
            last.append(Turn("user") if last[-1].calls else _said(GO_ON))
        marked = [turn for turn in last if turn.role == "user"][-2:] if marks else []
        shown: list[bytes] = []
        before = turns.before
        for turn in last:
            shown.append(self._shown(turn, before, mark=turn in marked))
            before = turn
        start = [b"[", turns.settled, b","] if turns.settled else [b"["]
        answering = len(last) > 1 and bool(last[-2].calls)
        return Context([*start, b",".join(shown), b"]"], answering and not last[-2].thinks)

    def _turns(self, messages: Sequence[Message]) -> _Turns:
        """A conversation's list only grows between its calls, so its turns are kept and only what is new is added."""
        turns = self._kept.pop(id(messages))
        if turns is None or turns.length > len(messages) or messages[turns.length - 1].id != turns.last_id:
            turns = _Turns(messages)
        lasting = True
        for message in messages[turns.length :]:
            self._add(message, turns, messages)
            lasting = lasting and not depends_on_context(message)
        self._settle(turns)
        if lasting and messages:
            turns.length, turns.last_id = len(messages), messages[-1].id
            self._kept.put(id(messages), turns, 2 * turns.size + KEPT_MESSAGE * len(messages))
        return turns

    def _settle(self, turns: _Turns) -> None:
        """Leave only the bytes of turns that nothing can be added to and no breakpoint can be put in any more."""
        if len(turns.recent) < 2 * RECENT_TURNS:
            return
        pieces = [turns.settled] if turns.settled else []
        for turn in turns.recent[:-RECENT_TURNS]:
            pieces.append(self._shown(turn, turns.before, mark=False))
            turns.before = turn
        turns.settled = b",".join(pieces)
        del turns.recent[:-RECENT_TURNS]

    def _add(self, message: Message, turns: _Turns, messages: Sequence[Message]) -> None:
        speaks = message.role == "assistant" or (message.role == "approval" and bool(message.tool_calls))
        returns = message.tool_returns
        if depends_on_context(message):
            returns = tuple(returns_shown(message, answered_in(messages)))
            encoded = b",".join(_encode(self._result(each)) for each in returns)
        else:
            cached = self._cache.get(message.id)
            encoded = b",".join(self._blocks(message)) if cached is None else cached
            if cached is None and message.id:
                self._cache.put(message.id, encoded)
        if not encoded:
            return
        turns.size += len(encoded)
        turn = turns.turn("assistant" if speaks else "user")
        if speaks and not turn.blocks:
            turn.thinks = self._begins_with_thinking(message)
        if speaks:
            turn.calls += [_id(call.id) for call in message.tool_calls]
            turn.blocks.append(encoded)
        elif returns:
            turn.results.append(Results(tuple(_id(each.tool_call_id) for each in returns), encoded, returns))
        else:
            turn.blocks.append(encoded)

    def _shown(self, turn: Turn, before: Turn | None, *, mark: bool) -> bytes:
        blocks = [*self._answers(turn, before), *turn.blocks] if turn.role == "user" else list(turn.blocks)
        if mark and blocks:
            blocks[-1] = blocks[-1][:-1] + CACHE_MARK
        return b'{"role":"' + turn.role.encode() + b'","content":[' + b",".join(blocks) + b"]}"

    def _answers(self, turn: Turn, before: Turn | None) -> Iterator[bytes]:
        """The results of the calls just made. One that is missing is said to be; one too many becomes text."""
        open_calls = list(before.calls) if before is not None else []
        strays: list[ToolReturn] = []
        for results in turn.results:
            if len(set(results.ids)) == len(results.ids) and all(each in open_calls for each in results.ids):
                open_calls = [each for each in open_calls if each not in results.ids]
                yield results.encoded
                continue
            for call_id, answer in zip(results.ids, results.returns, strict=True):
                if call_id in open_calls:
                    open_calls.remove(call_id)
                    yield _encode(self._result(answer))
                else:
                    strays.append(answer)
        for call_id in open_calls:
            yield _encode({"type": "tool_result", "tool_use_id": call_id, "content": NO_ANSWER, "is_error": True})
        for answer in strays:
            content = answer.content if isinstance(answer.content, str) else _text(answer.content)
            yield _encode({"type": "text", "text": f"The tool {answer.name} returned ({answer.status}):\n{content}"})

    def _blocks(self, message: Message) -> Iterator[bytes]:
        match message.role:
            case "assistant" | "approval":
                for block in self._said(message):
                    yield block if isinstance(block, bytes) else _encode(block)
            case "tool":
                for answer in message.tool_returns:
                    yield _encode(self._result(answer))
            case "system":
                if message.text.strip():
                    yield _encode({"type": "text", "text": f"<system>\n{message.text}\n</system>"})
            case "user" | "summary":
                for block in self._content(message.content):
                    yield _encode(block)

    def _said(self, message: Message) -> Iterator[dict[str, Any] | bytes]:
        """An answer as it came, calls in their places. One of another provider: without its thinking, its calls last."""
        own = self._owns(message)
        end = len(message.content)
        calls = [(call.at if own and call.at is not None else end, call) for call in message.tool_calls]
        for at, part in enumerate(message.content):
            while calls and calls[0][0] <= at:
                yield _call(calls.pop(0)[1])
            if (block := _said_part(part, own)) is not None:
                yield block
        for _, call in calls:
            yield _call(call)

    def _owns(self, message: Message) -> bool:
        return message.model is not None and message.model.startswith(self._prefix)

    def _begins_with_thinking(self, message: Message) -> bool:
        return bool(message.content) and self._owns(message) and _is_thinking(message.content[0])

    def _result(self, answer: ToolReturn) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(answer.tool_call_id)}
        if isinstance(answer.content, str):
            content: Any = answer.content
        else:
            content = list(self._content(answer.content))
        if content:
            made["content"] = content
        if answer.status == "error":
            made["is_error"] = True
        return made

    def _content(self, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        for part in parts:
            if isinstance(part, TextPart) and part.text.strip():
                yield {"type": "text", "text": part.text}
            elif isinstance(part, ImagePart):
                yield self._image(part)

    def _image(self, part: ImagePart) -> dict[str, Any]:
        if part.data is not None:
            source = {"type": "base64", "media_type": part.media_type or "image/png", "data": part.data}
        elif self._addresses:
            source = {"type": "url", "url": part.url}
        else:
            return {"type": "text", "text": f"(An image at {part.url}, which this model cannot fetch.)"}
        return {"type": "image", "source": source}


def _said(text: str) -> Turn:
    turn = Turn("user")
    turn.blocks.append(_encode({"type": "text", "text": text}))
    return turn


def _is_thinking(part: Part) -> bool:
    if isinstance(part, ReasoningPart):
        return bool(part.signature)
    return isinstance(part, HiddenReasoningPart) and part.data is not None


def _said_part(part: Part, own: bool) -> dict[str, Any] | None:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text} if part.text.strip() else None
    if not own or not _is_thinking(part):
        return None
    if isinstance(part, ReasoningPart):
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    assert isinstance(part, HiddenReasoningPart)
    return {"type": "redacted_thinking", "data": part.data}


def _call(call: ToolCall) -> bytes:
    """The arguments stand as the model wrote them, where they are an object."""
    head = _encode({"type": "tool_use", "id": _id(call.id), "name": call.name})
    return head[:-1] + b',"input":' + json_arguments(call.arguments).encode() + b"}"


def _id(call_id: str) -> str:
    """Other providers' ids hold characters this API refuses."""
    return _BAD_ID.sub("_", call_id) or "_"


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))
