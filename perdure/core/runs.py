"""Runs, steps and how they end."""

from typing import Any, Literal

from msgspec import Struct

from perdure.core.agents import CompactionSettings

StopReason = Literal[
    "end_turn",
    "error",
    "llm_api_error",
    "invalid_llm_response",
    "invalid_tool_call",
    "max_steps",
    "max_tokens_exceeded",
    "no_tool_call",
    "tool_rule",
    "cancelled",
    "insufficient_credits",
    "requires_approval",
    "context_window_overflow_in_system_prompt",
]
CallType = Literal["agent_step", "summarization"]
RunStatus = Literal["created", "running", "completed", "failed", "cancelled"]

COMPLETED: frozenset[StopReason] = frozenset({"end_turn", "max_steps", "tool_rule", "requires_approval"})


def status_of(reason: StopReason) -> RunStatus:
    """The run status a stop reason means."""
    if reason == "cancelled":
        return "cancelled"
    return "completed" if reason in COMPLETED else "failed"


class Usage(Struct, frozen=True):
    """Tokens of one or more model calls. None: the provider did not say; 0: it said none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    def __add__(self, other: "Usage") -> "Usage":
        def plus(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            plus(self.cached_input_tokens, other.cached_input_tokens),
            plus(self.cache_write_tokens, other.cache_write_tokens),
            plus(self.reasoning_tokens, other.reasoning_tokens),
        )


class ClientTool(Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ClientSkill(Struct, frozen=True):
    """Something the client's environment can do; `location` is where its text lies there."""

    name: str
    description: str
    location: str


class RunConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller asked of one run; decided at submission, never changed.

    `override_settings`: fields of the agent's model settings that are others for this run. `first_tools`: the first model
    call must call one of these. `compact_only`: the run compacts its conversation and calls the agent's model for nothing
    else. `compaction`: settings for that which win over the agent's.
    """

    max_steps: int = 50
    streaming: bool = False
    stream_tokens: bool = False
    background: bool = False
    include_pings: bool = True
    include_return_message_types: tuple[str, ...] | None = None
    use_assistant_message: bool = True
    assistant_message_tool_name: str = "send_message"
    assistant_message_tool_kwarg: str = "message"
    client_tools: tuple[ClientTool, ...] = ()
    client_skills: tuple[ClientSkill, ...] = ()
    override_model: str | None = None
    override_system: str | None = None
    override_settings: dict[str, Any] | None = None
    first_tools: tuple[str, ...] = ()
    include_compaction_messages: bool = False
    return_logprobs: bool = False
    top_logprobs: int | None = None
    return_token_ids: bool = False
    callback_url: str | None = None
    compact_only: bool = False
    compaction: CompactionSettings | None = None


class Run(Struct, frozen=True, kw_only=True):
    """One accepted request. Times are microseconds since the epoch, durations nanoseconds."""

    id: str
    agent_id: str
    conversation_id: str
    status: RunStatus
    created_us: int
    config: RunConfig
    background: bool = False
    stop_reason: StopReason | None = None
    completed_us: int | None = None
    error: dict[str, Any] | None = None
    usage: Usage = Usage()
    step_count: int = 0
    context_tokens: int | None = None
    ttft_ns: int | None = None
    total_duration_ns: int | None = None
    metadata: dict[str, Any] | None = None
    attempts: int = 0

    @property
    def ended(self) -> bool:
        return self.status not in ("created", "running")


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model call and the tools it asked for. `call_type`: what the call was for."""

    id: str
    run_id: str
    agent_id: str
    conversation_id: str
    created_us: int
    status: Literal["pending", "success", "failed", "cancelled"]
    provider_name: str | None = None
    model: str | None = None
    model_handle: str | None = None
    model_endpoint: str | None = None
    context_window: int | None = None
    usage: Usage = Usage()
    stop_reason: StopReason | None = None
    error_type: str | None = None
    error_data: dict[str, Any] | None = None
    feedback: Literal["positive", "negative"] | None = None
    tags: tuple[str, ...] = ()
    trace_id: str | None = None
    step_start_ns: int | None = None
    llm_request_start_ns: int | None = None
    llm_request_ns: int | None = None
    ttft_ns: int | None = None
    tool_execution_ns: int | None = None
    step_ns: int | None = None
    not_exact: str | None = None
    call_type: CallType = "agent_step"
