"""Messages as chat-completions JSON: bytes, encoded once a message.

Invariant: stored messages never change, so the bytes of one are kept by its id (within a bound) and a request body is
joined bytes: a long history costs a look-up a message, not an encoding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.core.messages import ImagePart, Message, Part, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.model import ToolSpec
from perdure.providers.profiles import ChatProfile

DEFAULT_CACHE_BYTES = 32 * 1024 * 1024
JOIN_FROM = 16
JOINED_CONVERSATIONS = 256
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


class _Joined(NamedTuple):
    """The first `length` messages of one list as bytes. `messages` keeps the list's id from being given to another."""

    messages: Sequence[Message]
    length: int
    last_id: str
    joined: bytes


class MessageEncoder:
    """Encodes for one provider. `cache` belongs to this encoder alone."""

    def __init__(self, profile: ChatProfile, cache: ByteCache | None = None) -> None:
        self._profile = profile
        self._cache = cache or ByteCache()
        self._joined: dict[int, _Joined] = {}
        self._tools: tuple[Sequence[ToolSpec], bytes] | None = None

    def messages(self, system: str, messages: Sequence[Message]) -> bytes:
        """The JSON array of the whole context."""
        pieces: list[bytes] = [_encode({"role": "system", "content": system})] if system else []
        if context := self._context(messages):
            pieces.append(context)
        return b"[" + b",".join(pieces) + b"]"

    def _context(self, messages: Sequence[Message]) -> bytes:
        """The messages, joined. A conversation's list only grows between its calls, so what was joined once is kept."""
        known = self._joined.pop(id(messages), None)
        start, joined = 0, b""
        if known is not None and known.length <= len(messages) and messages[known.length - 1].id == known.last_id:
            start, joined = known.length, known.joined
        pieces = [joined] if joined else []
        get, lasting = self._cache.get, True
        for message in messages[start:]:
            found = get(message.id)
            if found is None:
                found = self._encoded(message, messages)
            if found:
                pieces.append(found)
            lasting = lasting and not _depends_on_context(message)
        joined = b",".join(pieces)
        if lasting and len(messages) >= JOIN_FROM:
            self._joined[id(messages)] = _Joined(messages, len(messages), messages[-1].id, joined)
            if len(self._joined) > JOINED_CONVERSATIONS:
                del self._joined[next(iter(self._joined))]
        return joined

    def tools(self, tools: Sequence[ToolSpec]) -> bytes:
        """The JSON array of the tools. The steps of a run share one list, so the last one's bytes are kept."""
        if self._tools is not None and self._tools[0] is tools:
            return self._tools[1]
        encoded = _encode([_tool(spec) for spec in tools])
        self._tools = (tools, encoded)
        return encoded

    def _encoded(self, message: Message, context: Sequence[Message]) -> bytes:
        if _depends_on_context(message):
            answered = {each.tool_call_id for other in context if other.role == "tool" for each in other.tool_returns}
            return b",".join(_encode(each) for each in _approval_response(message, answered))
        encoded = b",".join(_encode(each) for each in self._objects(message))
        if message.id:
            self._cache.put(message.id, encoded)
        return encoded

    def _objects(self, message: Message) -> Iterator[dict[str, Any]]:
        match message.role:
            case "system":
                yield {"role": "system", "content": message.text}
            case "user" | "summary":
                yield {"role": "user", "content": _content(message.content)}
            case "assistant" | "approval":
                yield from self._assistant(message)
            case "tool":
                yield from _tool_returns(message.tool_returns)

    def _assistant(self, message: Message) -> Iterator[dict[str, Any]]:
        """Nothing for an answer that was only thinking: providers refuse an assistant message without content."""
        text = message.text
        if not text and not message.tool_calls:
            return
        made: dict[str, Any] = {"role": "assistant", "content": text or None}
        if self._profile.reasoning_out is not None:
            thinking = "".join(part.text for part in message.content if isinstance(part, ReasoningPart))
            if thinking:
                made[self._profile.reasoning_out] = thinking
        if message.tool_calls:
            made["tool_calls"] = [self._call(call) for call in message.tool_calls]
        yield made

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments or "{}"
        if self._profile.parse_arguments and not _is_json_object(arguments):
            arguments = _encode({NOT_JSON: arguments}).decode()
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _depends_on_context(message: Message) -> bool:
    """An approver's answer shows only where no tool message answers the call."""
    return message.role == "approval" and not message.tool_calls


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    if spec.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    if not any(isinstance(part, ImagePart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    made: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, TextPart):
            made.append({"type": "text", "text": part.text})
        elif isinstance(part, ImagePart):
            made.append(_image(part))
    return made


def _image(part: ImagePart) -> dict[str, Any]:
    url = f"data:{part.media_type or 'image/png'};base64,{part.data}" if part.data is not None else part.url
    image: dict[str, Any] = {"url": url}
    if part.detail:
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}


def _tool_returns(returns: Sequence[ToolReturn]) -> Iterator[dict[str, Any]]:
    """One tool message a return. They hold text only; images follow them as a user message that says whose they are."""
    images: list[dict[str, Any]] = []
    for answer in returns:
        content = answer.content
        if not isinstance(content, str):
            found = [_image(part) for part in content if isinstance(part, ImagePart)]
            if found:
                images += [
                    {"type": "text", "text": f"Images returned by {answer.name} ({answer.tool_call_id}):"},
                    *found,
                ]
            content = "".join(part.text for part in content if isinstance(part, TextPart))
            if found and not content:
                content = "(The images follow.)"
        yield {"role": "tool", "tool_call_id": answer.tool_call_id, "content": content}
    if images:
        yield {"role": "user", "content": images}


def _approval_response(message: Message, answered: set[str]) -> Iterator[dict[str, Any]]:
    """What a person decided shows only where no tool message answers the call."""
    open_returns = [each for each in message.tool_returns if each.tool_call_id not in answered]
    yield from _tool_returns(open_returns)
    closed = answered | {each.tool_call_id for each in open_returns}
    for approval in message.approvals:
        if not approval.approve and approval.tool_call_id not in closed:
            reason = f" Reason: {approval.reason}" if approval.reason else ""
            denied = f"Error: the request to call the tool was denied.{reason}"
            yield {"role": "tool", "tool_call_id": approval.tool_call_id, "content": denied}


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
