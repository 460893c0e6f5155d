"""A stored message as the events it means: one event for each part a client sees.

The same expansion serves streams, answers and listings, so ids and otids agree everywhere. Part indices count what a client
sees: adjacent text parts are one, adjacent reasoning parts are one, all tool calls of a message are one, standing where the
first of them came (`calls_at`).
"""

from collections.abc import Iterator
from typing import Any

from perdure.core.events import Event, Heard, Said, Summarised, ToolsReturned
from perdure.core.messages import HiddenReasoningPart, ImagePart, Message, Part, ReasoningPart, TextPart


def expand(message: Message) -> list[Event]:
    """The events of a message, in order; none for a hidden one."""
    if message.hidden:
        return []
    common: dict[str, Any] = {"message_id": message.id, "step_id": message.step_id, "at_us": message.created_us}
    if message.role == "tool":
        return [ToolsReturned(returns=message.tool_returns, **common)]
    if message.role == "summary":
        return [Summarised(summary=_summary(message), stats=message.compaction, **common)]
    if message.role == "assistant" or (message.role == "approval" and message.tool_calls):
        if message.interrupted is not None:
            common["interrupted"] = message.interrupted
        return list(_said(message, common))
    return [Heard(message=message, **common)]


def _summary(message: Message) -> str:
    """Its last text; what is before it introduces it to the model."""
    return next((part.text for part in reversed(message.content) if isinstance(part, TextPart)), "")


def _said(message: Message, common: dict[str, Any]) -> Iterator[Said]:
    calls_at = len(message.content) if message.calls_at is None else message.calls_at
    index = 0
    for part in merged(message.content[:calls_at]):
        yield said_part(part, index, common)
        index += 1
    if message.tool_calls:
        if message.role == "approval":
            yield Said(part=index, approval_calls=message.tool_calls, **common)
        else:
            yield Said(part=index, tool_calls=message.tool_calls, **common)
        index += 1
    for part in merged(message.content[calls_at:]):
        yield said_part(part, index, common)
        index += 1


def said_part(part: Part, index: int, common: dict[str, Any]) -> Said:
    if isinstance(part, ReasoningPart):
        return Said(part=index, reasoning=part.text, native=part.native, signature=part.signature, **common)
    if isinstance(part, HiddenReasoningPart):
        return Said(part=index, hidden_reasoning=part.data or "", **common)
    return Said(part=index, text=part.text if isinstance(part, TextPart) else "", **common)


def merged(content: tuple[Part, ...]) -> list[Part]:
    """Adjacent parts of one kind as one part; empty text, thinking that is not shown and an assistant's images have no place
    on the wire."""
    parts: list[Part] = []
    for part in content:
        last = parts[-1] if parts else None
        if isinstance(part, TextPart) and isinstance(last, TextPart):
            parts[-1] = TextPart(last.text + part.text)
        elif isinstance(part, ReasoningPart) and isinstance(last, ReasoningPart):
            parts[-1] = ReasoningPart(last.text + part.text, last.native, part.signature or last.signature)
        elif not isinstance(part, ImagePart) and not (isinstance(part, TextPart | ReasoningPart) and not part.text):
            parts.append(part)
    return parts
