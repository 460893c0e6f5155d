"""Messages as chat-completions JSON."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from perdure.core.messages import ImagePart, Message, Part, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.model import ToolSpec
from perdure.providers.message_bytes import ByteCache, ContextBytes, ToolBytes, json_arguments, returns_shown
from perdure.providers.profiles import ChatProfile

_encode = msgspec.json.Encoder().encode


class MessageEncoder:
    """Encodes for one provider. `cache` belongs to this encoder alone."""

    def __init__(self, profile: ChatProfile, cache: ByteCache | None = None) -> None:
        self._profile = profile
        self._context = ContextBytes(self._objects, _approval_response, cache)
        self._tools = ToolBytes(_tool)

    def messages(self, system: str, messages: Sequence[Message]) -> bytes:
        """The JSON array of the whole context."""
        pieces: list[bytes] = [_encode({"role": "system", "content": system})] if system else []
        if context := self._context.joined(messages):
            pieces.append(context)
        return b"[" + b",".join(pieces) + b"]"

    def tools(self, tools: Sequence[ToolSpec]) -> bytes:
        """The JSON array of the tools."""
        return self._tools.array(tools)

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
        arguments = json_arguments(call.arguments) if self._profile.parse_arguments else call.arguments or "{}"
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


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


def _tool_returns(returns: Iterable[ToolReturn]) -> Iterator[dict[str, Any]]:
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
    yield from _tool_returns(returns_shown(message, answered))
