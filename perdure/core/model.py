"""What goes into a model call and what comes out of it, whatever the provider.

A call yields batches of chunks and ends with exactly one `ModelDone`, or raises ProviderError. Chunks carry the new text
only, and joined they are exactly what the model wrote.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from perdure.core.agents import ModelSettings
from perdure.core.messages import Message, Part, ToolCall
from perdure.core.runs import Usage
from perdure.core.tokens import Segment, TokenCall


class ToolSpec(Struct, frozen=True):
    """A tool as the model is shown it. `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False


class Prompt(Struct, frozen=True, kw_only=True):
    """One model call.

    `messages`: the context in order, without the system message, whose text is `system`.
    `tools`: those that may be called now. `shown_tools`: all the agent has, for prompts that must not change with what is
    allowed at the moment (an engine's prefix); the same as `tools` where rules take nothing away.
    `tool_choice`: "auto", "required", "none", or a tool's name that must be called.
    `assistant_message_id`: the id the answer will be stored under, allocated before the call.
    `model_handle`: provider and model. A message's `model` is the handle that wrote it: signatures and other opaque parts of
    an answer go back only to the provider they came from.
    `affinity`: names those whose calls are likely to begin as this one does (a group of attempts at one task); "" for none.
    `compact_at`: a model that knows its prompt's exact length raises PromptTooLong beyond this many tokens.
    `on_cut_off`: told what the answer had come to where the call is called off, by a model that has a token record of it.
    """

    model: str
    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    shown_tools: Sequence[ToolSpec] | None = None
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    settings: ModelSettings = ModelSettings()
    context_window: int = 32_768
    model_handle: str = ""
    assistant_message_id: str = ""
    agent_id: str = ""
    conversation_id: str = ""
    run_id: str = ""
    step_id: str = ""
    system_message_id: str = ""
    thinking_retention: Literal["all", "tool_cycle"] = "all"
    want_logprobs: bool = False
    top_logprobs: int | None = None
    compact_at: int | None = None
    affinity: str = ""
    on_cut_off: "Callable[[ModelDone], None] | None" = None


class TextChunk(Struct, frozen=True):
    text: str


class ReasoningChunk(Struct, frozen=True):
    """`native`: from the provider's reasoning channel or the model's own thinking tags."""

    text: str
    native: bool = True
    signature: str | None = None


class HiddenReasoningChunk(Struct, frozen=True):
    """Thinking the provider withheld: a whole HiddenReasoningPart at once."""

    data: str | None = None


class ToolCallChunk(Struct, frozen=True):
    """A piece of one tool call. `index` tells calls of one answer apart; `id` and `name` come with the first piece."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = None


Chunk = TextChunk | ReasoningChunk | HiddenReasoningChunk | ToolCallChunk


class TokenLogprob(Struct, frozen=True):
    """One sampled token of a text API: `token` its text, `bytes` its UTF-8, `top` the most likely alternatives."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top: tuple[tuple[str, float, list[int] | None], ...] = ()


class TokenCapture(Struct, frozen=True, kw_only=True):
    """The token record of one call, to be committed with its step. `segment` is set when this call begins one."""

    call: TokenCall
    segment: Segment | None = None


class ProviderExchange(Struct, frozen=True, kw_only=True):
    """The request as sent and the answer as assembled: JSON bytes, for the step's trace."""

    request: bytes
    response: bytes


class CountedPrompt(Struct, frozen=True, kw_only=True):
    """The true length of a whole prompt in tokens, by part; the parts add up to `total`.

    `messages`: by message id, with the turn markers where the template gives them to the message. `template`: the rest.
    """

    total: int
    system: int
    tools: int
    messages: dict[str, int]
    template: int


class ModelDone(Struct, frozen=True, kw_only=True):
    """The end of a call.

    `content` and `tool_calls` are the whole answer, as it will be stored: its parts in order, calls in order. `calls_at`:
    before which of the parts the first call came; None: unknown, or after all of them.
    `capture`: the token record, where the engine takes and gives ids. `not_exact`: why there is none, where one was possible.
    `unparsed`: pieces of the answer that looked like tool calls and could not be read: (their text, what is wrong).
    """

    finish: Literal["stop", "length", "tool_calls", "content_filter", "abort"]
    content: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    calls_at: int | None = None
    usage: Usage = Usage()
    model: str | None = None
    logprobs: list[TokenLogprob] | None = None
    capture: TokenCapture | None = None
    not_exact: str | None = None
    unparsed: tuple[tuple[str, str], ...] = ()
    exchange: ProviderExchange | None = None
    request_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
