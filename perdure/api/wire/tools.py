"""Tools as they are asked for."""

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from perdure.api.paging import Limit, PageQuery
from perdure.core.agents import DEFAULT_RETURN_CHAR_LIMIT

ToolType = Literal[
    "custom",
    "letta_core",
    "letta_memory_core",
    "letta_multi_agent_core",
    "letta_sleeptime_core",
    "letta_voice_sleeptime_core",
    "letta_builtin",
    "letta_files_core",
    "external_langchain",
    "external_composio",
    "external_mcp",
]
SourceType = Literal["python", "typescript", "json"]


class PipRequirement(BaseModel):
    name: str = Field(min_length=1)
    version: str | None = None


class _Tool(BaseModel):
    model_config = ConfigDict(extra="ignore")

    description: str | None = None
    tags: list[str] | None = None
    json_schema: dict[str, Any] | None = None
    args_json_schema: dict[str, Any] | None = None
    pip_requirements: list[PipRequirement] | None = None
    npm_requirements: list[PipRequirement] | None = None
    default_requires_approval: bool | None = None
    enable_parallel_execution: bool | None = None
    metadata_: dict[str, Any] | None = None
    allow_network: bool | None = None
    idempotent: bool | None = None


class CreateTool(_Tool):
    source_code: str
    source_type: SourceType = "python"
    return_char_limit: int = Field(DEFAULT_RETURN_CHAR_LIMIT, ge=1, le=1_000_000)


class UpdateTool(_Tool):
    source_code: str | None = None
    source_type: SourceType | None = None
    return_char_limit: int | None = Field(None, ge=1, le=1_000_000)


class RunToolFromSource(BaseModel):
    source_code: str
    args: dict[str, Any] = {}
    env_vars: dict[str, str] = {}
    name: str | None = None
    source_type: SourceType | None = None
    json_schema: dict[str, Any] | None = None
    args_json_schema: dict[str, Any] | None = None
    pip_requirements: list[PipRequirement] | None = None
    npm_requirements: list[PipRequirement] | None = None


class RunTool(BaseModel):
    args: dict[str, Any] = {}


class SetApproval(BaseModel):
    # the npm SDK sends the name of its own parameter, `body_requires_approval`
    requires_approval: bool = Field(validation_alias=AliasChoices("requires_approval", "body_requires_approval"))


class SearchTools(BaseModel):
    query: str | None = None
    search_mode: Literal["vector", "fts", "hybrid"] = "hybrid"
    tool_types: list[str] | None = None
    tags: list[str] | None = None
    limit: int = Field(50, ge=1, le=100)


class ListToolsQuery(PageQuery):
    name: str | None = None
    names: list[str] | None = None
    tool_ids: list[str] | None = None
    search: str | None = None
    tool_types: list[str] | None = None
    exclude_tool_types: list[str] | None = None
    return_only_letta_tools: bool | None = False


class AgentToolsQuery(PageQuery):
    limit: Limit = 10
