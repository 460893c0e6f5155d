"""Messages as the input items of the Responses API.

Invariant: an answer this provider gave goes back as the items it came in, in their order, with their ids and encrypted
reasoning; another's goes back as text and calls alone. Reasoning goes only with what it led to: the API refuses it alone, and
refuses an id whose reasoning is missing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

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
from perdure.core.model import ToolSpec
from perdure.providers.message_bytes import ByteCache, ContextBytes, ToolBytes, in_order, returns_shown
from perdure.providers.responses_wire import SECTION, Kept, kept_in

_encode = msgspec.json.Encoder().encode
_SECTION_TYPES = {"s": "summary_text", "c": "reasoning_text"}


class InputEncoder:
    """Encodes for one provider, by its name. `reasoning` false: nothing opaque goes back (a key of another account)."""

    def __init__(self, provider: str, *, reasoning: bool = True, cache: ByteCache | None = None) -> None:
        self._own = f"{provider}/" if reasoning else None
        self._context = ContextBytes(self._items, _approval_response, cache)
        self._tools = ToolBytes(_tool)

    def input(self, messages: Sequence[Message]) -> list[bytes]:
        """The JSON array of the whole context, without the system text, in pieces."""
        return [b"[", *self._context.pieces(messages), b"]"]

    def tools(self, tools: Sequence[ToolSpec]) -> bytes:
        """The JSON array of the tools."""
        return self._tools.array(tools)

    def _items(self, message: Message) -> Iterator[dict[str, Any]]:
        match message.role:
            case "system":
                yield {"type": "message", "role": "system", "content": message.text}
            case "user" | "summary":
                yield {"type": "message", "role": "user", "content": _content(message.content)}
            case "assistant" | "approval":
                own = self._own is not None and (message.model or "").startswith(self._own)
                yield from _answer(message, own)
            case "tool":
                yield from _outputs(message.tool_returns)


def _answer(message: Message, own: bool) -> Iterator[dict[str, Any]]:
    found = [_item(each, own) for each in in_order(message)]
    items = [item for item in found if item is not None]
    while items and items[-1]["type"] == "reasoning":
        items.pop()
    if not any(item["type"] == "reasoning" for item in items):
        for item in items:
            item.pop("id", None)
            item.pop("status", None)
    yield from items


def _signature(each: Part | ToolCall) -> str | None:
    return each.data if isinstance(each, HiddenReasoningPart) else getattr(each, "signature", None)


def _item(each: Part | ToolCall, own: bool) -> dict[str, Any] | None:
    kept = (kept_in(_signature(each)) if own else None) or Kept()
    match each:
        case TextPart():
            return _message(each.text, kept) if each.text else None
        case ToolCall():
            call = {"type": "function_call", "call_id": each.id, "name": each.name, "arguments": each.arguments or "{}"}
            return {**call, "id": kept.id} if kept.id else call
        case ReasoningPart() | HiddenReasoningPart():
            return _reasoning(getattr(each, "text", ""), kept)
        case _:
            return None


def _message(text: str, kept: Kept) -> dict[str, Any]:
    if kept.id is None:
        made: dict[str, Any] = {"type": "message", "role": "assistant", "content": text}
    else:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        made = {"type": "message", "id": kept.id, "role": "assistant", "status": "completed", "content": content}
    return {**made, "phase": kept.phase} if kept.phase else made


def _reasoning(text: str, kept: Kept) -> dict[str, Any] | None:
    """None where neither the encrypted form nor the open one can be given back."""
    sections: list[tuple[str, str]] = []
    at = 0
    for kind, length in kept.cut:
        sections.append((kind, text[at : at + length]))
        at += length + len(SECTION)
    open_text = [{"type": _SECTION_TYPES["c"], "text": each} for kind, each in sections if kind == "c"]
    if kept.id is None or not (kept.encrypted or open_text):
        return None
    summary = [{"type": _SECTION_TYPES["s"], "text": each} for kind, each in sections if kind == "s"]
    made: dict[str, Any] = {"type": "reasoning", "id": kept.id, "summary": summary}
    if open_text:
        made["content"] = open_text
    if kept.encrypted:
        made["encrypted_content"] = kept.encrypted
    return made


def _tool(spec: ToolSpec) -> dict[str, Any]:
    """`strict` is always said: this API takes what says nothing for strict."""
    return {
        "type": "function",
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
        "strict": spec.strict,
    }


def _content(parts: Sequence[Part | ImagePart]) -> str | list[dict[str, Any]]:
    if not any(isinstance(part, ImagePart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    made: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, TextPart):
            made.append({"type": "input_text", "text": part.text})
        elif isinstance(part, ImagePart):
            url = f"data:{part.media_type or 'image/png'};base64,{part.data}" if part.data is not None else part.url
            made.append({"type": "input_image", "image_url": url, "detail": part.detail or "auto"})
    return made


def _outputs(returns: Iterable[ToolReturn]) -> Iterator[dict[str, Any]]:
    for answer in returns:
        output = answer.content if isinstance(answer.content, str) else _content(answer.content)
        yield {"type": "function_call_output", "call_id": answer.tool_call_id, "output": output}


def _approval_response(message: Message, answered: set[str]) -> Iterator[dict[str, Any]]:
    yield from _outputs(returns_shown(message, answered))
