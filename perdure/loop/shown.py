"""Stored messages as the events a client sees, also those of the older agent types, which speak by calling a tool.

Invariant: `LegacyAnswer` streams exactly these parts under these indices. Of a legacy call, thinking has a part of its own before
the call's, whichever of the two the model wrote first.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.events import Event, Said, ToolsReturned
from perdure.core.expand import expand, merged, said_part
from perdure.core.messages import LegacyForm, Message, Part, TextPart, ToolCall
from perdure.core.runs import RunConfig
from perdure.parsing.spoken_calls import Piece, SpokenCall


class Speech(Struct, frozen=True):
    """How older agents speak: by calling `tool`, with what they say as `argument`. `tool` None: show the calls as calls."""

    tool: str | None = "send_message"
    argument: str = "message"

    def of(self, name: str) -> str | None:
        """The argument that is speech in a call of the tool `name`."""
        return self.argument if name == self.tool else None


SEND_MESSAGE = Speech()


def speech_of(config: RunConfig) -> Speech:
    if not config.use_assistant_message:
        return Speech(None)
    return Speech(config.assistant_message_tool_name, config.assistant_message_tool_kwarg)


def shown(message: Message, speech: Speech = SEND_MESSAGE) -> list[Event]:
    """The events of a message, in order; none for a hidden one."""
    form = message.legacy
    if form is None or message.hidden:
        return expand(message)
    common: dict[str, Any] = {"message_id": message.id, "step_id": message.step_id, "at_us": message.created_us}
    if message.role == "tool":  # what is said needs no return, unless it went wrong
        returns = [each for each in message.tool_returns if each.name != speech.tool or each.status == "error"]
        return [ToolsReturned(returns=tuple(returns), **common)] if returns else []
    if message.role == "assistant" or (message.role == "approval" and message.tool_calls):
        return list(_said(message, form, speech, common))
    return expand(message)


def _said(message: Message, form: LegacyForm, speech: Speech, common: dict[str, Any]) -> Iterator[Said]:
    calls_at = len(message.content) if message.calls_at is None else message.calls_at
    before = list(_private(message.content[:calls_at], 0, common))
    yield from before
    index = len(before)
    for call in message.tool_calls:
        yield from _called(call, form, speech, index, asks=message.role == "approval", common=common)
        index += parts_of(form)
    yield from _private(message.content[calls_at:], index, common)


def parts_of(form: LegacyForm) -> int:
    """How many part indices a call takes."""
    return 1 if form.thoughts is None else 2


def _called(
    call: ToolCall, form: LegacyForm, speech: Speech, index: int, *, asks: bool, common: dict[str, Any]
) -> Iterator[Said]:
    at = index + parts_of(form) - 1
    for kind, text in by_kind(pieces_of(call, form, speech)):
        if kind == "thoughts":
            yield Said(part=index, reasoning=text, native=False, **common)
        elif kind == "speech":
            yield Said(part=at, text=text, **common)
        else:
            told = (msgspec.structs.replace(call, arguments=text),)
            yield Said(part=at, approval_calls=told, **common) if asks else Said(part=at, tool_calls=told, **common)


def pieces_of(call: ToolCall, form: LegacyForm, speech: Speech) -> list[Piece]:
    spoken = SpokenCall(form.thoughts, speech.of(call.name))
    return [*spoken.feed(call.arguments), *spoken.finish()]


def by_kind(pieces: Sequence[Piece]) -> list[Piece]:
    """Each kind once, where it first came."""
    found: dict[str, str] = {}
    for kind, text in pieces:
        found[kind] = found.get(kind, "") + text
    return list(found.items())  # type: ignore[return-value]


def _private(content: tuple[Part, ...], index: int, common: dict[str, Any]) -> Iterator[Said]:
    """What an older agent writes outside of calls is thinking."""
    for part in merged(content):
        if isinstance(part, TextPart):
            yield Said(part=index, reasoning=part.text, native=False, **common)
        else:
            yield said_part(part, index, common)
        index += 1
