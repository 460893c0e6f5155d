"""Letta JSON to values: what was validated by `wire/` becomes what `agents/` works with."""

from collections.abc import Callable
from typing import Any, cast

from perdure.agents.edit_tools import ToolChange, ToolSpec
from perdure.agents.groups import Manager
from perdure.agents.spec import AgentChange, AgentSpec, BlockChange, BlockSpec
from perdure.agents.update import with_settings
from perdure.api.compaction_settings import compaction_settings
from perdure.api.model_settings import check_response_format, model_settings
from perdure.api.wire.agents import CreateAgent, LLMConfig, UpdateAgent
from perdure.api.wire.blocks import TEMPLATE_FIELDS, CreateBlock, UpdateBlock
from perdure.api.wire.groups import ManagerChange, ManagerConfig
from perdure.api.wire.tools import CreateTool, UpdateTool
from perdure.core.agents import DEFAULT_BLOCK_LIMIT
from perdure.core.errors import Invalid, ToolError
from perdure.memory.times import end_us, start_us


def _settings_of_llm_config(config: LLMConfig) -> dict[str, Any]:
    given = config.model_dump(
        include={
            "temperature",
            "frequency_penalty",
            "parallel_tool_calls",
            "response_format",
            "strict",
            "put_inner_thoughts_in_kwargs",
            "return_logprobs",
            "top_logprobs",
            "return_token_ids",
            "tool_call_parser",
            "reasoning_effort",
        },
        exclude_unset=True,
        exclude_none=True,
    )
    if config.max_tokens is not None:
        given["max_output_tokens"] = config.max_tokens
    if config.effort is not None:
        given["reasoning_effort"] = config.effort
    # a model's own entry, sent back as an agent's, says that it can think; only a budget or a refusal is a wish
    return given | _thinking(None if config.enable_reasoner else config.enable_reasoner, config.max_reasoning_tokens)


def _thinking(wanted: bool | None, budget: int | None) -> dict[str, Any]:
    if wanted is False:
        return {"enable_thinking": False}
    if budget:
        return {"enable_thinking": True, "thinking_budget": budget}
    return {} if wanted is None else {"enable_thinking": True}


def _handle_of_llm_config(config: LLMConfig) -> str:
    if config.handle is not None:
        return config.handle
    provider = config.provider_name or config.model_endpoint_type
    return f"{provider}/{config.model}" if provider else config.model


def _single_settings(body: CreateAgent | UpdateAgent) -> dict[str, Any]:
    """Settings that stand beside `model_settings` in the request, under core's names; they win over it."""
    found: dict[str, Any] = {}
    if body.llm_config is not None and body.model_settings is None:
        found |= _settings_of_llm_config(body.llm_config)
    for name, target in (
        ("max_tokens", "max_output_tokens"),
        ("parallel_tool_calls", "parallel_tool_calls"),
        ("response_format", "response_format"),
    ):
        if name in body.model_fields_set and (value := getattr(body, name)) is not None:
            found[target] = value
    found |= _thinking(
        body.reasoning if body.reasoning is not None else body.enable_reasoner, body.max_reasoning_tokens
    )
    if "response_format" in found:
        check_response_format(found["response_format"], "response_format")
    return found


Seal = Callable[[dict[str, str]], dict[str, str]]
_LOOSE = {"template_id", "base_template_id", "embedding_config"}


def _loose_fields(body: CreateAgent | UpdateAgent) -> dict[str, Any]:
    return {key: value for key in _LOOSE & body.model_fields_set if (value := getattr(body, key)) is not None}


def _secrets(body: CreateAgent | UpdateAgent) -> dict[str, str] | None:
    return body.secrets if body.secrets is not None else body.tool_exec_environment_variables


def agent_spec(body: CreateAgent, seal: Seal = dict) -> AgentSpec:
    """`seal`: what makes of secrets those that may be kept."""
    config = body.llm_config
    settings = model_settings(body.model_settings or {})
    if singles := _single_settings(body):
        settings = with_settings(settings, singles)
    model = body.model or (_handle_of_llm_config(config) if config is not None else None)
    return AgentSpec(
        name=body.name,
        agent_type=body.agent_type,
        system=body.system,
        model=model,
        embedding=body.embedding,
        context_window_limit=body.context_window_limit or (config.context_window if config is not None else None),
        model_settings=settings,
        description=body.description,
        metadata=body.metadata or {},
        memory_blocks=tuple(block_spec(block) for block in body.memory_blocks or ()),
        block_ids=tuple(body.block_ids or ()),
        tools=tuple(body.tools or ()),
        tool_ids=tuple(body.tool_ids or ()),
        include_base_tools=body.include_base_tools,
        include_multi_agent_tools=body.include_multi_agent_tools,
        include_base_tool_rules=body.include_base_tool_rules,
        tool_rules=tuple(body.tool_rules or ()),
        tags=tuple(body.tags or ()),
        secrets=seal(_secrets(body) or {}),
        timezone=body.timezone or "UTC",
        compaction_settings=compaction_settings(body.compaction_settings),
        message_buffer_autoclear=body.message_buffer_autoclear,
        enable_sleeptime=body.enable_sleeptime,
        hidden=body.hidden,
        max_files_open=body.max_files_open,
        per_file_view_window_char_limit=body.per_file_view_window_char_limit,
        memory_rendering=body.memory_rendering or "recompile",
        thinking_retention=body.thinking_retention or "all",
        project_id=body.project_id,
        extra=_loose_fields(body),
    )


# fields of UpdateAgent that AgentChange has under the same name, and whether null empties them (else it leaves them be)
_CHANGEABLE = {
    "name": False,
    "system": False,
    "embedding": True,
    "description": True,
    "timezone": False,
    "message_buffer_autoclear": False,
    "enable_sleeptime": True,
    "hidden": True,
    "max_files_open": True,
    "per_file_view_window_char_limit": True,
    "memory_rendering": False,
    "thinking_retention": False,
    "project_id": True,
    "last_run_duration_ms": True,
    "last_stop_reason": True,
}


def agent_change(body: UpdateAgent, seal: Seal = dict) -> AgentChange:
    values: dict[str, Any] = {}
    for name, clears in _CHANGEABLE.items():
        if name in body.model_fields_set and ((value := getattr(body, name)) is not None or clears):
            values[name] = value
    for name in ("block_ids", "tool_ids", "message_ids", "tool_rules", "tags"):
        if (value := getattr(body, name)) is not None:
            values[name] = tuple(value)
    if "metadata" in body.model_fields_set:
        values["metadata"] = body.metadata or {}
    if (secrets := _secrets(body)) is not None:
        values["secrets"] = seal(secrets)
    if "compaction_settings" in body.model_fields_set:
        values["compaction_settings"] = compaction_settings(body.compaction_settings)
    if "last_run_completion" in body.model_fields_set:
        values["last_run_completed_us"] = time_us(body.last_run_completion, "last_run_completion")
    config = body.llm_config
    if body.model is not None or config is not None:
        values["model"] = body.model or _handle_of_llm_config(cast(LLMConfig, config))
    limit = body.context_window_limit or (config.context_window if config is not None else None)
    if limit is not None:
        values["context_window_limit"] = limit
    if body.model_settings is not None:
        values["model_settings"] = model_settings(body.model_settings)
    return AgentChange(**values, settings_changes=_single_settings(body), extra=_loose_fields(body))


def _template_fields(body: CreateBlock | UpdateBlock) -> dict[str, Any]:
    return {key: getattr(body, key) for key in TEMPLATE_FIELDS if key in body.model_fields_set}


def block_spec(body: CreateBlock) -> BlockSpec:
    return BlockSpec(
        label=body.label,
        value=body.value,
        limit=body.limit or DEFAULT_BLOCK_LIMIT,
        description=body.description,
        read_only=bool(body.read_only),
        metadata=body.metadata or {},
        tags=tuple(body.tags or ()),
        hidden=body.hidden,
        is_template=bool(body.is_template),
        extra=_template_fields(body),
    )


def block_change(body: UpdateBlock) -> BlockChange:
    values: dict[str, Any] = {
        key: value
        for key in ("value", "label", "limit", "read_only", "is_template")
        if (value := getattr(body, key)) is not None
    }
    for key in ("description", "hidden"):
        if key in body.model_fields_set:
            values[key] = getattr(body, key)
    if body.metadata is not None:
        values["metadata"] = body.metadata
    if body.tags is not None:
        values["tags"] = tuple(body.tags)
    return BlockChange(**values, extra=_template_fields(body))


def tool_spec(body: CreateTool) -> ToolSpec:
    given = body.model_dump(exclude_unset=True)
    given["metadata"] = given.pop("metadata_", None)
    given["tags"] = tuple(given.get("tags") or ())
    for key in ("enable_parallel_execution", "allow_network", "idempotent"):
        given[key] = bool(given.get(key))
    return ToolSpec(**given)


def tool_change(body: UpdateTool) -> ToolChange:
    """null leaves a field alone, except where nothing is a value of it."""
    given = body.model_dump(exclude_unset=True)
    if "metadata_" in given:
        given["metadata"] = given.pop("metadata_")
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None or key in _EMPTIABLE}
    if "tags" in values:
        values["tags"] = tuple(values["tags"])
    return ToolChange(**values)


_EMPTIABLE = frozenset({"pip_requirements", "npm_requirements", "default_requires_approval", "metadata"})


def time_us(value: str | None, field: str, *, end_of_day: bool = False, timezone: str = "UTC") -> int | None:
    """An ISO 8601 date or time as microseconds. `end_of_day`: a date alone means its last moment."""
    try:
        return end_us(value, field, timezone) if end_of_day else start_us(value, field, timezone)
    except ToolError as error:
        raise Invalid(error.message, status=422) from error


def manager_of(config: ManagerConfig | ManagerChange) -> Manager:
    """How a group is led; None where the kind has no such setting or it was left out."""
    return Manager(
        manager_type=config.manager_type,
        manager_agent_id=config.manager_agent_id,
        max_turns=getattr(config, "max_turns", None),
        termination_token=getattr(config, "termination_token", None),
        frequency=getattr(config, "sleeptime_agent_frequency", None),
        max_buffer=getattr(config, "max_message_buffer_length", None),
        min_buffer=getattr(config, "min_message_buffer_length", None),
    )
