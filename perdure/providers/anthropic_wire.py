"""Frames of the Messages API as it has them: what is read of them, as types the decoder fills fast.

A stream's events and a whole answer are one type here; `type` says which. Every field may be missing, and what is not named
here is skipped unread.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from perdure.core.runs import Usage


class OutputDetails(Struct):
    thinking_tokens: int | None = None


class WireUsage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


class Block(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = field(default_factory=Raw)


class Delta(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: Any = None


class Head(Struct):
    """The answer as `message_start` announces it."""

    id: str | None = None
    model: str | None = None
    usage: WireUsage | None = None


class Frame(Struct):
    type: str = ""
    index: int = 0
    message: Head | str | None = None  # a text where a gateway puts its error
    content_block: Block | None = None
    delta: Delta | None = None
    usage: WireUsage | None = None
    error: Any = None
    id: str | None = None
    model: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_details: Any = None


decode_frame = msgspec.json.Decoder(Frame).decode


def merged_usage(first: WireUsage | None, later: WireUsage) -> WireUsage:
    """Counts are cumulative and an event may leave some out: the last word on each counts."""
    if first is None:
        return later
    values = {name: getattr(later, name) for name in WireUsage.__struct_fields__}
    return msgspec.structs.replace(first, **{name: value for name, value in values.items() if value is not None})


def usage_of(usage: WireUsage | None) -> Usage:
    """The API counts what came from the cache and what went into it beside the rest of the prompt, not in it."""
    if usage is None:
        return Usage()
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    prompt = (usage.input_tokens or 0) + (read or 0) + (written or 0)
    completion = usage.output_tokens or 0
    details = usage.output_tokens_details
    thinking = details.thinking_tokens if details is not None else None
    return Usage(prompt, completion, prompt + completion, read, written, thinking)
