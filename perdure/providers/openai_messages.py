"""Messages as chat-completions JSON, in a provider's dialect."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from perdure.core.messages import ImagePart, Message, Part, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.model import ToolSpec
from perdure.providers.dialects import ChatProfile
from perdure.providers.message_bytes import ByteCache, ContextBytes, ToolBytes, json_arguments, returns_shown
from perdure.providers.openai_kept import details_in, extra_in
from perdure.providers.think_tags import tagged

IMAGE_LEFT_OUT = "[An image was here; this model reads text only.]"
NO_THINKING = "(No thinking is on record.)"

_encode = msgspec.json.Encoder().encode


class MessageEncoder:
    """Encodes for one provider, by its name and in its dialect. `cache` belongs to this encoder alone."""

    def __init__(self, profile: ChatProfile, cache: ByteCache | None = None, *, provider: str = "") -> None:
        self._profile = profile
        self._own = f"{provider}/"
        between = _answer_between if profile.answer_after_tool else None
        self._context = ContextBytes(self._objects, self._approval_response, cache, between)
        self._tools = ToolBytes(self._tool)

    def messages(self, system: str, messages: Sequence[Message]) -> list[bytes]:
        """The JSON array of the whole context, in pieces."""
        context = self._context.pieces(messages)
        if not system:
            return [b"[", *context, b"]"]
        first = _encode({"role": "system", "content": system})
        return [b"[", first, b",", *context, b"]"] if context else [b"[", first, b"]"]

    def tools(self, tools: Sequence[ToolSpec]) -> bytes:
        """The JSON array of the tools."""
        return self._tools.array(tools)

    def _objects(self, message: Message) -> Iterator[dict[str, Any]]:
        match message.role:
            case "system":
                yield {"role": "system", "content": message.text}
            case "user" | "summary":
                yield {"role": "user", "content": self._content(message.content)}
            case "assistant" | "approval":
                yield from self._assistant(message)
            case "tool":
                yield from self._tool_returns(message.tool_returns)

    def _assistant(self, message: Message) -> Iterator[dict[str, Any]]:
        """Nothing for an answer that was only thinking: providers refuse an assistant message without content."""
        text, profile = message.text, self._profile
        if not text and not message.tool_calls:
            return
        own = (message.model or "").startswith(self._own)
        thinking = "".join(part.text for part in message.content if isinstance(part, ReasoningPart))
        if profile.think_tags == "both" and own:
            text = tagged(thinking, text)
        made: dict[str, Any] = {"role": "assistant", "content": text or None}
        if profile.reasoning_out is not None and (thinking or (profile.reasoning_needed and message.tool_calls)):
            made[profile.reasoning_out] = thinking or NO_THINKING
        if profile.details and own and (details := details_in(message)):
            made["reasoning_details"] = details
            made.pop(profile.reasoning_out or "", None)  # they hold it
        if message.tool_calls:
            made["tool_calls"] = [self._call(call, own) for call in message.tool_calls]
        yield made

    def _call(self, call: ToolCall, own: bool) -> dict[str, Any]:
        arguments = json_arguments(call.arguments) if self._profile.parse_arguments else call.arguments or "{}"
        function = {"name": call.name, "arguments": arguments}
        made: dict[str, Any] = {"id": self._id(call.id), "type": "function", "function": function}
        if self._profile.call_extra and own and (extra := extra_in(call)) is not None:
            made["extra_content"] = extra
        return made

    def _id(self, call_id: str) -> str:
        """The id, or where the provider takes only its own form, the same other one each time."""
        size = self._profile.call_id
        if size is None or (len(call_id) == size and call_id.isascii() and call_id.isalnum()):
            return call_id
        return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:size]

    def _tool(self, spec: ToolSpec) -> dict[str, Any]:
        function: dict[str, Any] = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
        if spec.strict and self._profile.strict:
            function["strict"] = True
        return {"type": "function", "function": function}

    def _content(self, parts: Sequence[Part]) -> str | list[dict[str, Any]]:
        if not any(isinstance(part, ImagePart) for part in parts):
            return "".join(part.text for part in parts if isinstance(part, TextPart))
        made: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, TextPart):
                made.append({"type": "text", "text": part.text})
            elif isinstance(part, ImagePart):
                made.append(self._image(part))
        if self._profile.images is None:
            return "\n".join(part["text"] for part in made)
        return made

    def _image(self, part: ImagePart) -> dict[str, Any]:
        if self._profile.images is None:
            return {"type": "text", "text": IMAGE_LEFT_OUT}
        url = f"data:{part.media_type or 'image/png'};base64,{part.data}" if part.data is not None else part.url
        image: dict[str, Any] = {"url": url}
        if part.detail:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}

    def _tool_returns(self, returns: Iterable[ToolReturn]) -> Iterator[dict[str, Any]]:
        """One tool message a return. They hold text only; images follow them as a user message that says whose they are."""
        images: list[dict[str, Any]] = []
        for answer in returns:
            content = answer.content
            if not isinstance(content, str):
                found = [self._image(part) for part in content if isinstance(part, ImagePart)]
                if found:
                    whose = f"Images returned by {answer.name} ({answer.tool_call_id}):"
                    images += [{"type": "text", "text": whose}, *found]
                content = "".join(part.text for part in content if isinstance(part, TextPart))
                if found and not content:
                    content = "(The images follow.)"
            yield {"role": "tool", "tool_call_id": self._id(answer.tool_call_id), "content": content}
        if images:
            if self._profile.answer_after_tool:
                yield _FILLER
            shown = images if self._profile.images is not None else "\n".join(part["text"] for part in images)
            yield {"role": "user", "content": shown}

    def _approval_response(self, message: Message, answered: set[str]) -> Iterator[dict[str, Any]]:
        yield from self._tool_returns(returns_shown(message, answered))


_FILLER = {"role": "assistant", "content": "Understood."}
_FILLER_BYTES = _encode(_FILLER)


def _answer_between(before: Message, after: Message) -> bytes:
    """An answer, where the user would speak right after a tool did."""
    spoken = after.role in ("user", "summary", "system")
    returned = before.role == "tool" or (before.role == "approval" and not before.tool_calls)
    return _FILLER_BYTES if spoken and returned else b""
