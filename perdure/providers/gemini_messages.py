"""Messages as the contents of a generateContent request.

Invariant: an answer this provider gave goes back with its signatures, each on the part it came on; another's goes back without.
Neighbouring answers are one content and the first content is the user's: Gemini takes calls only behind what the user or a
function said.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw

from perdure.core.messages import ImagePart, Message, Part, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.model import ToolSpec
from perdure.providers.gemini_schema import parameters
from perdure.providers.message_bytes import (
    ByteCache,
    ToolBytes,
    answered_in,
    depends_on_context,
    in_order,
    json_arguments,
    returns_shown,
)

_encode = msgspec.json.Encoder().encode
_OPENING = b'{"role":"user","parts":[{"text":"(The conversation begins.)"}]}'

_Role = Literal["user", "model"]


class ContentEncoder:
    """Encodes for one provider, by its name. `stand_in`: the signature of calls that have none, for models that ask for one.

    `signatures` false: no signature goes back (they are another account's).
    """

    def __init__(
        self, provider: str, *, stand_in: str | None = None, signatures: bool = True, cache: ByteCache | None = None
    ) -> None:
        self._own = f"{provider}/" if signatures else None
        self._stand_in = stand_in
        self._cache = cache or ByteCache()
        self._tools = ToolBytes(_declaration)

    def contents(self, messages: Sequence[Message]) -> bytes:
        """The JSON array of the whole context, without the system text."""
        contents: list[bytes] = []
        answers: list[bytes] = []
        for message in messages:
            found = self._cache.get(message.id)
            if found is None:
                found = self._encoded(message, messages)
            if not found:
                continue
            if _role(message) == "model":
                answers.append(found)
                continue
            if answers:
                contents.append(_content("model", answers))
                answers.clear()
            contents.append(found)
        if answers:
            contents.append(_content("model", answers))
        if contents and contents[0].startswith(b'{"role":"model"'):
            contents.insert(0, _OPENING)
        return b"[" + b",".join(contents) + b"]"

    def declarations(self, tools: Sequence[ToolSpec]) -> bytes:
        """The JSON array of the tools."""
        return b'[{"functionDeclarations":' + self._tools.array(tools) + b"}]"

    def _encoded(self, message: Message, context: Sequence[Message]) -> bytes:
        """What the user and tools say, as contents; what the model said, as the parts of one."""
        if depends_on_context(message):
            return b",".join(_answered(message, context))
        if _role(message) == "model":
            encoded = b",".join(self._parts(message))
        elif message.role == "tool":
            encoded = b",".join(_returned(message.tool_returns))
        else:
            parts = list(_said(message.content))
            encoded = _content("user", [b",".join(parts)]) if parts else b""
        if message.id:
            self._cache.put(message.id, encoded)
        return encoded

    def _parts(self, message: Message) -> Iterator[bytes]:
        own = self._own is not None and (message.model or "").startswith(self._own)
        for each in in_order(message):
            if not isinstance(each, ToolCall):
                yield from _answer_part(each, own)
                continue
            signature = each.signature if own else None
            yield _call(each, signature or (self._stand_in if each is message.tool_calls[0] else None))


def _role(message: Message) -> _Role:
    return "model" if message.role == "assistant" or (message.role == "approval" and message.tool_calls) else "user"


def _content(role: _Role, parts: Iterable[bytes]) -> bytes:
    return f'{{"role":"{role}","parts":['.encode() + b",".join(parts) + b"]}"


def _said(parts: Sequence[Part]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, TextPart) and part.text:
            yield _encode({"text": part.text})
        elif isinstance(part, ImagePart):
            yield _image(part)


def _image(part: ImagePart) -> bytes:
    kind = part.media_type or "image/png"
    if part.data is not None:
        return _encode({"inlineData": {"mimeType": kind, "data": part.data}})
    return _encode({"fileData": {"mimeType": kind, "fileUri": part.url}})


def _answer_part(part: Part, own: bool) -> Iterator[bytes]:
    """Thinking goes back only where it is signed: unsigned it is a summary, which the model did not think in."""
    signed = {"thoughtSignature": part.signature} if own and getattr(part, "signature", None) else {}  # type: ignore[union-attr]
    if isinstance(part, TextPart) and (part.text or signed):
        yield _encode({"text": part.text, **signed})
    elif isinstance(part, ReasoningPart) and signed:
        yield _encode({"text": part.text, "thought": True, **signed})


def _call(call: ToolCall, signature: str | None) -> bytes:
    arguments = Raw(json_arguments(call.arguments).encode())
    made: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.name, "args": arguments}}
    return _encode({**made, "thoughtSignature": signature} if signature else made)


def _returned(returns: Iterable[ToolReturn]) -> Iterator[bytes]:
    """All returns in one content, as Gemini wants those of one answer; images follow in one that says whose they are."""
    answers: list[bytes] = []
    images: list[bytes] = []
    for answer in returns:
        content = answer.content
        if not isinstance(content, str):
            if found := [_image(part) for part in content if isinstance(part, ImagePart)]:
                images += [_encode({"text": f"Images returned by {answer.name} ({answer.tool_call_id}):"}), *found]
            content = "".join(part.text for part in content if isinstance(part, TextPart))
            content = content or ("(The images follow.)" if found else "")
        key = "error" if answer.status == "error" else "output"
        response = {"id": answer.tool_call_id, "name": answer.name, "response": {key: content}}
        answers.append(_encode({"functionResponse": response}))
    if answers:
        yield _content("user", answers)
    if images:
        yield _content("user", images)


def _answered(message: Message, context: Sequence[Message]) -> Iterator[bytes]:
    """An approver's answer, its denials under the names of the calls they deny."""
    names = {call.id: call.name for other in context for call in other.tool_calls}
    returns = returns_shown(message, answered_in(context))
    named = (msgspec.structs.replace(each, name=each.name or names.get(each.tool_call_id, "")) for each in returns)
    yield from _returned(named)


def _declaration(spec: ToolSpec) -> dict[str, Any]:
    made: dict[str, Any] = {"name": spec.name, "description": spec.description}
    if (wanted := parameters(spec.parameters)) is not None:
        made["parameters"] = wanted
    return made
