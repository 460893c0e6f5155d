"""What of a chat completion goes back as it came: `reasoning_details` of an answer, `extra_content` of a call.

Invariant: both are kept as JSON text in the signatures of our parts and calls, a list for details and an object for extra
content; a signature of another kind is not read.
"""

from typing import Any

import msgspec

from perdure.core.messages import HiddenReasoningPart, Message, Part, TextPart, ToolCall

_JOINED = ("text", "summary")


class Details:
    """`reasoning_details` under way: pieces of one entry (same index and type, one after the other) become one."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []

    def take(self, pieces: list[Any]) -> None:
        for piece in pieces:
            if not isinstance(piece, dict):
                continue
            last = self._entries[-1] if self._entries else None
            if last is None or any(last.get(key) != piece.get(key) for key in ("type", "index")):
                self._entries.append(dict(piece))
                continue
            for key, value in piece.items():
                if key in _JOINED and isinstance(value, str):
                    last[key] = (last.get(key) or "") + value
                elif value is not None:
                    last[key] = value

    def signature(self) -> str | None:
        return msgspec.json.encode(self._entries).decode() if self._entries else None


def text_in(pieces: list[Any]) -> str:
    """What new details say in the open."""
    texts = (piece.get("text") or piece.get("summary") for piece in pieces if isinstance(piece, dict))
    return "".join(text for text in texts if isinstance(text, str))


def signed(
    content: tuple[Part, ...], calls: tuple[ToolCall, ...], signature: str
) -> tuple[tuple[Part, ...], tuple[ToolCall, ...]]:
    """An answer with details that came with no thinking on the first call or text that can carry them."""
    if calls and calls[0].signature is None:
        return content, (msgspec.structs.replace(calls[0], signature=signature), *calls[1:])
    for at, part in enumerate(content):
        if isinstance(part, TextPart):
            return (*content[:at], msgspec.structs.replace(part, signature=signature), *content[at + 1 :]), calls
    return (*content, HiddenReasoningPart(signature)), calls


def details_in(message: Message) -> list[Any]:
    found: list[Any] = []
    for each in (*message.content, *message.tool_calls):
        value = _decoded(each.data if isinstance(each, HiddenReasoningPart) else getattr(each, "signature", None), "[")
        found += value or ()
    return found


def extra_in(call: ToolCall) -> dict[str, Any] | None:
    return _decoded(call.signature, "{")


def _decoded(signature: str | None, begins: str) -> Any:
    if not signature or not signature.startswith(begins):
        return None
    try:
        return msgspec.json.decode(signature)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
