"""Tokens on record: what a model call saw and sampled, id by id.

A *segment* is one append-only stream of ids an engine actually saw; a *call* is one generation in it. A call stores only
what it adds (`delta_ids`, then `completion_ids`), so storage is linear in turns. A segment ends and the next begins only
for a recorded `cause`.
"""

from array import array
from typing import Any, Literal

from msgspec import Struct, field

from perdure.core.experts import KeptExperts
from perdure.core.runs import CallType

Cause = Literal[
    "root",
    "compaction",
    "subagent",
    "fork",
    "retry",
    "history_edit",
    "memory_rewrite",
    "thinking_drop",
    "tools_change",
    "model_change",
    "reset",
    "renderer_fallback",
]
LogprobSemantics = Literal["raw", "temperature", "processed", "unknown"]
Ids = array  # of typecode 'i': int32, [length]

ROLES = ("scaffold", "system", "user", "assistant", "tool", "summary")


class Span(Struct, frozen=True, array_like=True):
    """`length` ids in a row that belong together: the message they came from ("" for scaffold), an index into `ROLES`,
    and whether they are a message's body (True) or the template around it."""

    length: int
    message_id: str
    role: int
    is_content: bool


class Synthesized(Struct, frozen=True, array_like=True):
    """Ids nobody sampled, put in to close a turn: `length` ids at offset `at` of the call's `delta_ids`."""

    at: int
    length: int
    why: str


class VersionSpan(Struct, frozen=True, array_like=True):
    """Which weights sampled completion ids [start, end)."""

    version: str
    start: int
    end: int


class TokenizerInfo(Struct, frozen=True):
    """`sha256` is of the tokenizer's own definition; `special` maps special-token text to id."""

    name: str
    sha256: str
    vocab_size: int
    revision: str | None = None
    special: dict[str, int] = field(default_factory=dict)


class RendererInfo(Struct, frozen=True):
    name: str
    version: str
    config_sha256: str
    template_sha256: str | None = None


class Segment(Struct, frozen=True, kw_only=True):
    """`parent_offset`: how many ids it shares with the parent segment from the start (0 without a parent)."""

    id: str
    conversation_id: str
    agent_id: str
    index: int
    cause: Cause
    created_us: int
    parent_segment_id: str | None = None
    parent_offset: int = 0
    cause_detail: str | None = None
    model_handle: str = ""
    model_name: str = ""
    tokenizer: TokenizerInfo | None = None
    renderer: RendererInfo | None = None
    system_sha256: str | None = None
    tools_sha256: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class Finish(Struct, frozen=True):
    """Why the engine stopped. `matched`: the stop token id or string; `raw`: its own words."""

    type: Literal["stop", "length", "abort"]
    matched: int | str | None = None
    raw: Any = None


class GenerationAttempt(Struct, frozen=True, kw_only=True):
    """One request of a generation that the engine broke off and that went on: completion ids [start, start + length)."""

    start: int
    length: int
    finish: Finish
    engine_request_id: str | None = None
    engine_base_url: str | None = None
    cached_tokens: int | None = None
    retractions: int | None = None


class TokenCall(Struct, frozen=True, kw_only=True):
    """One generation.

    `delta_ids` [D]: prompt ids after the segment's previous end; `prompt_len` = the segment's length before + D.
    `completion_ids` [C], `logprobs` [C] float32, the engine's own; both include the end-of-turn token when it was sampled.
    `top_logprobs` [C] of [[logprob, id], ...] where asked for. `spans` cover the D ids in order.
    `text`: what the ids decode to, special tokens kept. `attempts`: where it took more than one request, each of them in order.
    `experts`: where it was asked which ones each id went to.
    """

    id: str
    segment_id: str
    conversation_id: str
    agent_id: str
    run_id: str
    step_id: str
    created_us: int
    delta_ids: bytes
    completion_ids: bytes
    logprobs: bytes
    prompt_len: int
    length: int
    finish: Finish
    engine: str
    engine_version: str | None = None
    engine_base_url: str | None = None
    engine_request_id: str | None = None
    stop_token_included: bool = True
    logprob_semantics: LogprobSemantics = "unknown"
    sampling: dict[str, Any] = field(default_factory=dict)
    bridge: Literal["render", "bridge", "splice", "fallback"] = "bridge"
    spans: tuple[Span, ...] = ()
    synthesized: tuple[Synthesized, ...] = ()
    versions: tuple[VersionSpan, ...] = ()
    top_logprobs: list[Any] | None = None
    message_ids: tuple[str, ...] = ()
    assistant_message_id: str = ""
    parse: dict[str, Any] = field(default_factory=dict)
    text_sha256: str | None = None
    cached_tokens: int | None = None
    retractions: int | None = None
    first_token_us: int | None = None
    ended_us: int | None = None
    trainable: bool = True
    call_type: CallType = "agent_step"
    attempts: tuple[GenerationAttempt, ...] = ()
    experts: KeptExperts | None = None


def ids_to_bytes(ids: "list[int] | array[int]") -> bytes:
    """int32 little-endian."""
    return (ids if isinstance(ids, array) else array("i", ids)).tobytes()


def bytes_to_ids(data: bytes) -> "array[int]":
    ids = array("i")
    ids.frombytes(data)
    return ids


def floats_to_bytes(values: "list[float] | array[float]") -> bytes:
    """float32 little-endian."""
    return (values if isinstance(values, array) and values.typecode == "f" else array("f", values)).tobytes()


def bytes_to_floats(data: bytes) -> "array[float]":
    values = array("f")
    values.frombytes(data)
    return values
