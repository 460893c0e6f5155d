"""What a caller may ask of an agent: the values the API's requests become, whatever their wire form.

In an update UNSET means "leave it as it is"; None empties what can be empty.
"""

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from perdure.core.agents import (
    DEFAULT_BLOCK_LIMIT,
    AgentType,
    CompactionSettings,
    MemoryRendering,
    ModelSettings,
    ThinkingRetention,
)


class BlockSpec(Struct, frozen=True, kw_only=True):
    """A block to be created. `extra` keeps wire fields that mean nothing here, so that they come back."""

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


class BlockChange(Struct, frozen=True, kw_only=True):
    value: str | UnsetType = UNSET
    label: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    read_only: bool | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    hidden: bool | UnsetType | None = UNSET
    is_template: bool | UnsetType = UNSET
    extra: dict[str, Any] = field(default_factory=dict)


class AgentSpec(Struct, frozen=True, kw_only=True):
    """An agent to be created. `model`: a handle, None for the server's default."""

    name: str | None = None
    agent_type: AgentType = "letta_v1_agent"
    system: str | None = None
    model: str | None = None
    embedding: str | None = None
    context_window_limit: int | None = None
    model_settings: ModelSettings = ModelSettings()
    description: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    memory_blocks: tuple[BlockSpec, ...] = ()
    block_ids: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    tool_ids: tuple[str, ...] = ()
    include_base_tools: bool = True
    include_multi_agent_tools: bool = False
    include_base_tool_rules: bool | None = None
    tool_rules: tuple[dict[str, Any], ...] = ()
    tags: tuple[str, ...] = ()
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


class AgentChange(Struct, frozen=True, kw_only=True):
    """`settings_changes`: single fields of the model settings, applied after `model_settings`."""

    settings_changes: dict[str, Any] = field(default_factory=dict)
    name: str | UnsetType = UNSET
    system: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    embedding: str | UnsetType | None = UNSET
    context_window_limit: int | UnsetType = UNSET
    model_settings: ModelSettings | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    block_ids: tuple[str, ...] | UnsetType = UNSET
    tool_ids: tuple[str, ...] | UnsetType = UNSET
    message_ids: tuple[str, ...] | UnsetType = UNSET
    tool_rules: tuple[dict[str, Any], ...] | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    secrets: dict[str, str] | UnsetType = UNSET
    timezone: str | UnsetType = UNSET
    compaction_settings: CompactionSettings | UnsetType | None = UNSET
    message_buffer_autoclear: bool | UnsetType = UNSET
    enable_sleeptime: bool | UnsetType | None = UNSET
    hidden: bool | UnsetType | None = UNSET
    max_files_open: int | UnsetType | None = UNSET
    per_file_view_window_char_limit: int | UnsetType | None = UNSET
    memory_rendering: MemoryRendering | UnsetType = UNSET
    thinking_retention: ThinkingRetention | UnsetType = UNSET
    project_id: str | UnsetType | None = UNSET
    last_run_completed_us: int | UnsetType | None = UNSET
    last_run_duration_ms: int | UnsetType | None = UNSET
    last_stop_reason: str | UnsetType | None = UNSET
    extra: dict[str, Any] = field(default_factory=dict)
