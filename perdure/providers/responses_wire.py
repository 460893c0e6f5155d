"""OpenAI Responses as the API has it: what is read of its events and answers, and what of an item is kept for the next turn.

Every field may be missing. What is not named here is skipped unread.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from perdure.core.runs import Usage
from perdure.providers.openai_wire import Token


class Piece(Struct):
    """A part of an item's content: output_text, refusal, summary_text or reasoning_text."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    logprobs: list[Token] | None = None


class Item(Struct):
    """One output item: a message, a function call or a piece of reasoning."""

    type: str | None = None
    id: str | None = None
    content: list[Piece] | None = None
    summary: list[Piece] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    phase: str | None = None


class InputDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(Struct):
    reasoning_tokens: int | None = None


class WireUsage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class Incomplete(Struct):
    reason: str | None = None


class Response(Struct):
    """A whole answer, or as much of it as there is."""

    id: str | None = None
    object: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[Item] = field(default_factory=list)
    incomplete_details: Incomplete | None = None
    error: Any = None
    usage: WireUsage | None = None


class Event(Struct):
    """One event of a stream."""

    type: str | None = None
    delta: str | None = None
    item: Item | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    logprobs: list[Token] | None = None
    response: Raw = field(default_factory=Raw)
    error: Any = None
    message: Any = None
    code: Any = None
    output: Any = None


class Kept(Struct, omit_defaults=True):
    """What of an output item goes back with it: the signature of our part or call, as JSON text.

    `cut`: the sections of a reasoning item, as (s for summary or c for content,
    characters), which our part joins by SECTION.
    """

    id: str | None = None
    encrypted: str | None = None
    phase: str | None = None
    cut: list[tuple[str, int]] = field(default_factory=list)


SECTION = "\n\n"

decode_event = msgspec.json.Decoder(Event).decode
decode_response = msgspec.json.Decoder(Response).decode
_decode_kept = msgspec.json.Decoder(Kept).decode


def signature_of(kept: Kept) -> str:
    return msgspec.json.encode(kept).decode()


def kept_in(signature: str | None) -> Kept | None:
    """What a signature keeps; None for one that is not ours to read."""
    if not signature or not signature.startswith("{"):
        return None
    try:
        return _decode_kept(signature)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError):
        return None


def usage_of(usage: WireUsage | None) -> Usage:
    if usage is None:
        return Usage()
    said, wrote = usage.input_tokens or 0, usage.output_tokens or 0
    read, thought = usage.input_tokens_details or InputDetails(), usage.output_tokens_details or OutputDetails()
    total = usage.total_tokens or said + wrote
    return Usage(said, wrote, total, read.cached_tokens, read.cache_write_tokens, thought.reasoning_tokens)
