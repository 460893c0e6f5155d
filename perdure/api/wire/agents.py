"""Agents as they are asked for."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from perdure.api.paging import Limit, Order
from perdure.api.wire.blocks import CreateBlock
from perdure.core.agents import AgentType, MemoryRendering, ThinkingRetention

Include = Literal[
    "agent.blocks",
    "agent.identities",
    "agent.managed_group",
    "agent.pending_approval",
    "agent.secrets",
    "agent.sources",
    "agent.tags",
    "agent.tools",
]


class LLMConfig(BaseModel):
    """The deprecated way to name a model; `handle` wins over `provider_name` and `model`."""

    model: str
    handle: str | None = None
    provider_name: str | None = None
    model_endpoint_type: str | None = None
    context_window: int | None = Field(None, ge=1)
    temperature: float | None = None
    max_tokens: int | None = Field(None, ge=1)
    reasoning_effort: str | None = None
    effort: str | None = None
    enable_reasoner: bool | None = None
    max_reasoning_tokens: int | None = Field(None, ge=0)
    frequency_penalty: float | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    strict: bool | None = None
    put_inner_thoughts_in_kwargs: bool | None = None
    return_logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    return_token_ids: bool | None = None
    tool_call_parser: str | None = None


class _Agent(BaseModel):
    """What can be said of an agent when it is created and when it is changed."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    name: str | None = None
    system: str | None = None
    model: str | None = Field(None, description="A handle: `<provider>/<model>`.")
    embedding: str | None = None
    model_settings: dict[str, Any] | None = None
    llm_config: LLMConfig | None = None
    embedding_config: dict[str, Any] | None = None
    context_window_limit: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_reasoning_tokens: int | None = Field(None, ge=0)
    enable_reasoner: bool | None = None
    reasoning: bool | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None
    block_ids: list[str] | None = None
    tool_ids: list[str] | None = None
    tool_rules: list[dict[str, Any]] | None = None
    tags: list[str] | None = None
    secrets: dict[str, str] | None = None
    tool_exec_environment_variables: dict[str, str] | None = None
    timezone: str | None = None
    compaction_settings: dict[str, Any] | None = None
    enable_sleeptime: bool | None = None
    hidden: bool | None = None
    max_files_open: int | None = Field(None, ge=0)
    per_file_view_window_char_limit: int | None = Field(None, ge=0)
    project_id: str | None = None
    template_id: str | None = None
    base_template_id: str | None = None
    memory_rendering: MemoryRendering | None = None
    thinking_retention: ThinkingRetention | None = None


class CreateAgent(_Agent):
    agent_type: AgentType = "letta_v1_agent"
    memory_blocks: list[CreateBlock] | None = None
    tools: list[str] | None = None
    include_base_tools: bool = True
    include_multi_agent_tools: bool = False
    include_base_tool_rules: bool | None = None
    initial_message_sequence: list[dict[str, Any]] | None = None
    message_buffer_autoclear: bool = False

    @field_validator(
        "agent_type", "include_base_tools", "include_multi_agent_tools", "message_buffer_autoclear", mode="before"
    )
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value


class UpdateAgent(_Agent):
    message_ids: list[str] | None = None
    message_buffer_autoclear: bool | None = None
    last_run_completion: str | None = None
    last_run_duration_ms: int | None = None
    last_stop_reason: str | None = None


class RetrieveAgentQuery(BaseModel):
    include: list[Include] = []
    include_relationships: list[str] | None = None


class ListAgentsQuery(RetrieveAgentQuery):
    name: str | None = None
    tags: list[str] | None = None
    match_all_tags: bool = False
    before: str | None = None
    after: str | None = None
    limit: Limit = 50
    query_text: str | None = None
    project_id: str | None = None
    template_id: str | None = None
    base_template_id: str | None = None
    identity_id: str | None = None
    identifier_keys: list[str] | None = None
    order: Order = "desc"
    order_by: Literal["created_at", "updated_at", "last_run_completion"] = "created_at"
    ascending: bool | None = None
    sort_by: Literal["created_at", "updated_at", "last_run_completion"] | None = None
    last_stop_reason: str | None = None
    created_by_id: str | None = None
    show_hidden_agents: bool = False


class RecompileQuery(BaseModel):
    update_timestamp: bool = False
    dry_run: bool = False
