"""Every client-visible fact a run produces, as one typed union.

The log numbers events from 1; an event's place (`seq_id`) is the log's business, not the event's. One event becomes
exactly one frame on the wire (`api/to_wire.py`). Deltas carry the new text only. `part` is the index of the part within
its stored message, so a delta and the stored part have the same otid.
"""

from typing import Any

from msgspec import Struct

from perdure.core.messages import CompactionStats, Interruption, Message, ToolCall, ToolReturn
from perdure.core.runs import StopReason, Usage


class _OfMessage(Struct, frozen=True, kw_only=True):
    """What every event about a message says of it: `at_us` is the message's own time, microseconds since the epoch."""

    message_id: str
    step_id: str | None
    at_us: int


class RunStarted(Struct, frozen=True, tag="run_started"):
    run_id: str
    at_us: int


class ReasoningDelta(_OfMessage, frozen=True, kw_only=True, tag="reasoning_delta"):
    part: int
    text: str
    native: bool = True
    signature: str | None = None


class TextDelta(_OfMessage, frozen=True, kw_only=True, tag="text_delta"):
    part: int
    text: str


class ToolCallDelta(_OfMessage, frozen=True, kw_only=True, tag="tool_call_delta"):
    """`name` comes with the first delta of a call, `arguments` in pieces; `needs_approval` as on the stored message."""

    part: int
    tool_call_id: str
    name: str | None = None
    arguments: str | None = None
    needs_approval: bool = False


class Said(_OfMessage, frozen=True, kw_only=True, tag="said"):
    """One whole part of a stored assistant message: exactly one of the fields is set, but for `interrupted`, which is the
    message's."""

    part: int
    reasoning: str | None = None
    native: bool = True
    signature: str | None = None
    hidden_reasoning: str | None = None
    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    approval_calls: tuple[ToolCall, ...] = ()
    interrupted: Interruption | None = None


class ToolsReturned(_OfMessage, frozen=True, kw_only=True, tag="tools_returned"):
    returns: tuple[ToolReturn, ...]


class Heard(_OfMessage, frozen=True, kw_only=True, tag="heard"):
    """A message that was not the model's: what the user, the system or an approver said (listings only)."""

    message: Message


class CompactionStarted(Struct, frozen=True, tag="compaction_started"):
    event_id: str
    trigger: str
    context_tokens: int | None
    context_window: int
    at_us: int = 0


class Summarised(_OfMessage, frozen=True, kw_only=True, tag="summarised"):
    summary: str
    stats: CompactionStats | None = None


class RunFailed(Struct, frozen=True, tag="run_failed"):
    """An error in the stream; comes after RunStopped and ends the log."""

    run_id: str
    error_type: str
    message: str
    detail: str | None = None


class RunStopped(Struct, frozen=True, tag="run_stopped"):
    reason: StopReason


class UsageReported(Struct, frozen=True, tag="usage_reported"):
    """The run's sums; `context_tokens` are the last step's. `logprobs` (of the last call, as the wire has them) and `turns`
    (the run's token record, turn by turn) are there when the request asked for them. `run_ids`: the sleeptime runs it began."""

    usage: Usage
    step_count: int
    context_tokens: int | None = None
    logprobs: dict[str, Any] | None = None
    turns: list[dict[str, Any]] | None = None
    run_ids: tuple[str, ...] | None = None


class LogEnded(Struct, frozen=True, tag="log_ended"):
    """Nothing follows: the `[DONE]` of a stream."""


Event = (
    RunStarted
    | ReasoningDelta
    | TextDelta
    | ToolCallDelta
    | Said
    | ToolsReturned
    | Heard
    | CompactionStarted
    | Summarised
    | RunStopped
    | UsageReported
    | RunFailed
    | LogEnded
)
