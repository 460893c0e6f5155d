"""Agents and what belongs to them: blocks, tools, tool rules, model settings."""

from typing import Any, Literal

from msgspec import Struct, convert, field, to_builtins
from msgspec.structs import replace

from perdure.core.groups import Group

AgentType = Literal[
    "memgpt_agent",
    "memgpt_v2_agent",
    "letta_v1_agent",
    "react_agent",
    "workflow_agent",
    "split_thread_agent",
    "sleeptime_agent",
    "voice_convo_agent",
    "voice_sleeptime_agent",
]
MemoryRendering = Literal["recompile", "append"]
ThinkingRetention = Literal["all", "tool_cycle"]
CompactionMode = Literal["sliding_window", "all", "self_compact_all", "self_compact_sliding_window"]

DEFAULT_BLOCK_LIMIT = 100_000
DEFAULT_RETURN_CHAR_LIMIT = 50_000


class Block(Struct, frozen=True, kw_only=True):
    """A named piece of memory. `limit` is in characters; `version` counts edits (optimistic concurrency)."""

    id: str
    label: str
    value: str = ""
    limit: int = DEFAULT_BLOCK_LIMIT
    description: str | None = None
    read_only: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    hidden: bool | None = None
    is_template: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    created_us: int = 0
    updated_us: int = 0
    version: int = 1


class Tool(Struct, frozen=True, kw_only=True):
    """`json_schema` is {name, description, parameters}: what the model is shown. Built-in tools have no source.

    `idempotent`: to run it twice comes to the same as to run it once, so a call that was interrupted may be run again.
    """

    id: str
    name: str
    tool_type: str = "custom"
    description: str | None = None
    source_type: str | None = "python"
    source_code: str | None = None
    json_schema: dict[str, Any] = field(default_factory=dict)
    args_json_schema: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    return_char_limit: int = DEFAULT_RETURN_CHAR_LIMIT
    pip_requirements: list[dict[str, Any]] | None = None
    npm_requirements: list[dict[str, Any]] | None = None
    default_requires_approval: bool | None = None
    enable_parallel_execution: bool = False
    metadata: dict[str, Any] | None = None
    allow_network: bool = False
    idempotent: bool = False
    created_us: int = 0
    updated_us: int = 0


class ModelSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a model is called. None: the provider's own default, except where a profile says otherwise.

    `put_inner_thoughts_in_kwargs`: older agent types think in an argument of their calls (None: yes). `wire_api`: which API to
    call it through, where its provider has several. `return_routed_experts`: put on record which experts of a mixture each id
    went to; `routed_experts_shape`: [layers, experts an id], where the model's own configuration is not at hand. `raw` keeps the
    caller's own settings object, so that it comes back as it was sent.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    reasoning_summary: str | None = None
    verbosity: str | None = None
    wire_api: Literal["chat", "responses"] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    response_format: dict[str, Any] | None = None
    strict: bool = False
    put_inner_thoughts_in_kwargs: bool | None = None
    tool_call_parser: str | None = None
    return_logprobs: bool = False
    top_logprobs: int | None = None
    return_token_ids: bool = False
    return_routed_experts: bool = False
    routed_experts_shape: tuple[int, int] | None = None
    tokenizer: str | None = None
    raw: dict[str, Any] = field(default_factory=dict)


class CompactionSettings(Struct, frozen=True, kw_only=True):
    """How a conversation that outgrows its window is made smaller.

    `model`: who writes the summary (None: the provider's small model, or the agent's own); the self_compact modes ask the
    agent's own model. `clip_chars`: the longest summary. `sliding_window_percentage`: the least share of the messages that
    is summarised at once, in (0, 1]. `train_summaries`: the agent's own tokens in a summary may be trained on.
    `pinned_message_ids`: messages that stay in the context word for word.
    """

    mode: CompactionMode = "sliding_window"
    model: str | None = None
    model_settings: ModelSettings | None = None
    prompt: str | None = None
    prompt_acknowledgement: bool = False
    clip_chars: int | None = 50_000
    sliding_window_percentage: float = 0.3
    train_summaries: bool = False
    pinned_message_ids: tuple[str, ...] = ()


class Agent(Struct, frozen=True, kw_only=True):
    """An agent's own record. Blocks, tools and tags are linked to it by the store, in order of attachment.

    `tool_rules` are wire-shaped dicts, validated when they came in. `secrets` are sealed (`vault.py`), and reach only the
    agent's own tools.
    `revision` goes up with every change that a prompt or a tool call could notice (the agent's own, its blocks', tools').
    """

    id: str
    name: str
    agent_type: AgentType = "letta_v1_agent"
    system: str = ""
    model: str = ""
    embedding: str | None = None
    context_window: int = 32_768
    model_settings: ModelSettings = ModelSettings()
    description: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    tool_rules: tuple[dict[str, Any], ...] = ()
    secrets: dict[str, str] = field(default_factory=dict)
    timezone: str = "UTC"
    compaction_settings: CompactionSettings | None = None
    message_buffer_autoclear: bool = False
    enable_sleeptime: bool | None = None
    hidden: bool | None = None
    max_files_open: int | None = None
    per_file_view_window_char_limit: int | None = None
    memory_rendering: MemoryRendering = "recompile"
    thinking_retention: ThinkingRetention = "all"
    project_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    created_us: int = 0
    updated_us: int = 0
    last_run_completed_us: int | None = None
    last_run_duration_ms: int | None = None
    last_stop_reason: str | None = None
    revision: int = 1


class ShownAs(Struct, frozen=True, kw_only=True):
    """Whose ids and which time a copy's compiled prompt names, so that all copies of one agent are shown the same."""

    agent_id: str
    conversation_id: str | None = None
    at_us: int = 0


_SHOWN_AS = "shown_as"


def shown_as(agent: Agent) -> ShownAs | None:
    """None: the agent's own, and the time of compiling."""
    kept = agent.extra.get(_SHOWN_AS)
    return None if kept is None else convert(kept, ShownAs)


def with_shown_as(agent: Agent, shown: ShownAs) -> Agent:
    return replace(agent, extra={**agent.extra, _SHOWN_AS: to_builtins(shown)})


def shown_id(agent: Agent) -> str:
    """The id that prompts know the agent by."""
    shown = shown_as(agent)
    return agent.id if shown is None else shown.agent_id


class AgentBundle(Struct, frozen=True, kw_only=True):
    """An agent with everything a run of it needs, read at one moment. `group`: the one it manages."""

    agent: Agent
    blocks: tuple[Block, ...] = ()
    tools: tuple[Tool, ...] = ()
    tags: tuple[str, ...] = ()
    group: Group | None = None
