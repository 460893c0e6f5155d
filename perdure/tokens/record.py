"""The values of a `traj/1` record: one rollout a line, token arrays flat, every array of a segment of one length.

Nothing here is computed from text. Times are microseconds since the epoch; logprobs are float32 values, written as the doubles
that equal them. Field order is the order in the file.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from perdure.core.experts import Dtype
from perdure.core.runs import CallType
from perdure.core.tokens import Cause, LogprobSemantics, RendererInfo, TokenizerInfo

SCHEMA = "traj/1"
UNKNOWN_VERSION = "unknown"
SYSTEM, USER, ASSISTANT, TOOL, SUMMARY = 1, 2, 3, 4, 5

Status = Literal["completed", "truncated", "aborted", "failed", "incomplete"]
ARRAYS = ("token_ids", "loss_mask", "logprobs", "call_index", "message_index", "role", "is_content", "version", "check")


class Model(Struct, frozen=True, kw_only=True):
    handle: str
    path: str
    dtype: str | None = None


class MessageRef(Struct, frozen=True, kw_only=True):
    """A message whose ids are in the record, as it was stored. `role` is an index into `core.tokens.ROLES`. `text` is None
    where the export had no message store; `tool_calls` are [call id, name, arguments as written]."""

    id: str
    role: int
    text: str | None = None
    tool_calls: list[list[str]] = field(default_factory=list)


class EngineRef(Struct, frozen=True, kw_only=True):
    kind: str
    base_id: str | None = None
    version: str | None = None


class FinishRef(Struct, frozen=True, kw_only=True):
    type: Literal["stop", "length", "abort"]
    matched: int | str | None = None
    raw: Any = None


class WeightSpan(Struct, frozen=True, kw_only=True):
    """Completion ids [start, end) of a call were sampled by weights `version`."""

    version: str
    start: int
    end: int


class AttemptRef(Struct, frozen=True, kw_only=True):
    """One request of a generation that the engine broke off and that went on: completion ids [start, start + length) of its
    call, which are `token_ids`. Its `weight_versions` count from its own first id."""

    engine_request_id: str | None = None
    base_id: str | None = None
    start: int
    length: int
    token_ids: list[int]
    finish: FinishRef
    weight_versions: list[WeightSpan]
    cached_tokens: int | None = None
    retractions: int | None = None


class SynthesizedRef(Struct, frozen=True, kw_only=True):
    """`len` ids at `pos` of the segment that nobody sampled, put in to close a turn."""

    pos: int
    len: int
    why: str


class CallExperts(Struct, frozen=True, kw_only=True):
    """Which rows of its segment's routed experts a call brought: of ids [start, start + count). `sha256` is of these rows as the
    engine's numbers in `dtype`."""

    start: int
    count: int
    dtype: Dtype
    sha256: str


class RoutedExperts(Struct, frozen=True, kw_only=True):
    """Which experts ids [0, shape[0]) of a segment went to: `shape` [ids, layers, experts an id], `data` the numbers in C order,
    little-endian, as base64. `num_experts`: of a layer, where known. `check`: one CRC-32 a row over it and its id's `check`."""

    dtype: Dtype
    shape: list[int]
    num_experts: int | None = None
    data: str
    check: list[int]


class Reward(Struct, frozen=True, kw_only=True):
    name: str
    value: float
    weight: float = 1.0
    scope: Literal["rollout", "segment", "call", "token"] = "rollout"
    target_id: str | None = None
    source: str | None = None
    at: int | None = None


class Call(Struct, frozen=True, kw_only=True):
    """One generation: ids [start, start+length) of segment `segment_index`, after a prompt of `prompt_len` ids.

    Ids from `delta_start` to `start` are what its prompt added, covered in order by `spans` of
    [length, message_index, role, is_content]. `token_ids` and `logprobs` repeat the completion, so that a damaged array can
    be told from a damaged call. `attempts` are there where it took more than one request. `digest` is the link of the
    rollout's chain that ends with this call. `call_type` is there where the call was no step of the agent's own:
    "summarization" wrote the summary of a compaction. `routed_experts` is there where they were asked for and told.
    """

    call_id: str
    index: int
    segment_id: str
    segment_index: int
    step_id: str
    run_id: str
    engine: EngineRef
    engine_request_id: str | None
    delta_start: int
    prompt_len: int
    start: int
    length: int
    finish: FinishRef
    stop_token_included: bool
    sampling: dict[str, Any]
    logprob_semantics: LogprobSemantics
    weight_versions: list[WeightSpan]
    pause_mode: str | None = None
    cached_tokens: int | None = None
    retractions: int | None = None
    attempts: list[AttemptRef] = field(default_factory=list)
    bridge: Literal["render", "bridge", "splice", "fallback"]
    synthesized: list[SynthesizedRef] = field(default_factory=list)
    parse: dict[str, Any] = field(default_factory=dict)
    message_ids: list[str] = field(default_factory=list)
    assistant_message_id: str = ""
    text_sha256: str | None = None
    t_queue: int | None = None
    t_first: int | None = None
    t_last: int | None = None
    delivered: bool | None = None
    trainable: bool = True
    spans: list[tuple[int, int, int, int]] = field(default_factory=list)
    token_ids: list[int]
    logprobs: list[float | None]
    digest: str = ""
    call_type: CallType | UnsetType = UNSET
    routed_experts: CallExperts | UnsetType = UNSET


class SegmentRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One append-only stream some engine saw, as arrays of one length T.

    `check` is one CRC-32 a token over its entries in the other arrays and the check before it, so that a damaged entry
    shows at its own position. `model`, `tokenizer` and `renderer` are set where they differ from the rollout's.
    The optional arrays are a trainer's own; no check covers them but the record's. `routed_experts` has its own.
    """

    segment_id: str
    index: int
    parent_segment_id: str | None
    parent_offset: int
    cause: Cause
    cause_detail: str | None
    created_at: int
    trainable: bool
    agent_id: str
    messages_range: list[str]
    system_sha256: str | None
    tools_sha256: str | None
    settings: dict[str, Any]
    token_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float | None]
    call_index: list[int]
    message_index: list[int]
    role: list[int]
    is_content: list[int]
    version: list[int]
    check: list[int]
    model: Model | None = None
    tokenizer: TokenizerInfo | None = None
    renderer: RendererInfo | None = None
    advantages: list[float] | None = None
    ref_logprobs: list[float] | None = None
    loss_weights: dict[str, list[float]] | None = None
    kept_ids: list[int] | None = None
    kept_offsets: list[int] | None = None
    top_ids: list[list[int]] | None = None
    top_logprobs: list[list[float]] | None = None
    routed_experts: RoutedExperts | None = None


class Rollout(Struct, frozen=True, kw_only=True):
    """One task attempt by one agent. `calls` are in the order they were made, whatever segment they belong to; a segment's
    `call_index` counts in it, its `message_index` in `messages`, its `version` in `versions`.

    `digest` is the last link of the chain over the calls; `record_sha256` seals everything else in the line.
    """

    schema: str = SCHEMA
    rollout_id: str
    group_id: str | None = None
    group_index: int | None = None
    group_size: int | None = None
    attempt: int = 0
    task: dict[str, Any] | None = None
    agent_id: str
    agent_snapshot_sha256: str | None = None
    conversation_id: str
    run_ids: list[str]
    started_at: int | None = None
    ended_at: int | None = None
    status: Status = "completed"
    stop_reason: str | None = None
    model: Model
    tokenizer: TokenizerInfo | None
    renderer: RendererInfo | None
    tools_sha256: str | None = None
    versions: list[str]
    rewards: list[Reward] = field(default_factory=list)
    reward: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    messages: list[MessageRef]
    calls: list[Call]
    segments: list[SegmentRecord]
    redactions: list[dict[str, Any]] = field(default_factory=list)
    digest: str = ""
    record_sha256: str = ""
