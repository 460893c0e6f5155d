"""Agents, blocks, tools, runs, steps, models and passages as Letta JSON. Messages and events: `to_wire.py`."""

from typing import Any

import msgspec

from perdure.agents.run_tool import ToolResult
from perdure.api.paging import EVERYTHING, Relations
from perdure.api.to_wire import iso, letta_messages
from perdure.core.agents import Agent, Block, ModelSettings, Tool
from perdure.core.ids import DEFAULT_USER_ID, new_id, now_us
from perdure.core.messages import Message, ToolReturn
from perdure.core.runs import Run, Step, Usage
from perdure.providers.base import ModelInfo
from perdure.store.agents import AgentView
from perdure.store.codec import Passage
from perdure.store.steps import Trace
from perdure.tools.sandbox import SandboxResult

_MINE = {"created_by_id": DEFAULT_USER_ID, "last_updated_by_id": DEFAULT_USER_ID}
_PROVIDER_TYPES = frozenset(
    {
        *(
            "anthropic",
            "azure",
            "baseten",
            "bedrock",
            "cerebras",
            "chatgpt_oauth",
            "deepseek",
            "fireworks",
            "google_ai",
        ),
        *(
            "google_vertex",
            "groq",
            "hugging-face",
            "letta",
            "lmstudio_openai",
            "minimax",
            "mistral",
            "ollama",
            "openai",
        ),
        *("together", "vllm", "sglang", "openrouter", "xai", "zai"),
    }
)


def agent_state(view: AgentView, shown: Relations = EVERYTHING) -> dict[str, Any]:
    """What `shown` leaves out is an empty list; `pending_approval` is only there when it was asked for."""
    agent = view.bundle.agent
    blocks = [block_json(block) for block in view.bundle.blocks] if shown.blocks else []
    secrets = [_secret(agent, key, value) for key, value in agent.secrets.items()] if shown.secrets else []
    settings = model_settings(agent)
    return {
        "id": agent.id,
        "name": agent.name,
        "description": agent.description,
        "agent_type": agent.agent_type,
        "system": agent.system,
        "tool_rules": list(agent.tool_rules),
        "message_ids": list(view.message_ids),
        "model": agent.model,
        "model_settings": settings,
        "llm_config": llm_config(agent),
        "embedding": agent.embedding,
        "embedding_config": agent.extra.get("embedding_config"),
        "compaction_settings": agent.compaction_settings,
        "response_format": agent.model_settings.response_format,
        "metadata": agent.metadata,
        "memory": {
            "agent_type": agent.agent_type,
            "git_enabled": False,
            "blocks": blocks,
            "file_blocks": [],
            "prompt_template": "",
        },
        "blocks": blocks,
        "tools": [tool_json(tool) for tool in view.bundle.tools] if shown.tools else [],
        "tags": list(view.bundle.tags) if shown.tags else [],
        "sources": [],
        "tool_exec_environment_variables": secrets,
        "secrets": secrets,
        "identity_ids": [],
        "identities": [],
        "pending_approval": _pending(view) if shown.pending else None,
        "managed_group": None,
        "multi_agent_group": None,
        "message_buffer_autoclear": agent.message_buffer_autoclear,
        "enable_sleeptime": agent.enable_sleeptime,
        "last_run_completion": iso(agent.last_run_completed_us),
        "last_run_duration_ms": agent.last_run_duration_ms,
        "last_stop_reason": agent.last_stop_reason,
        "timezone": agent.timezone,
        "max_files_open": agent.max_files_open,
        "per_file_view_window_char_limit": agent.per_file_view_window_char_limit,
        "hidden": agent.hidden,
        "project_id": agent.project_id,
        "template_id": agent.extra.get("template_id"),
        "base_template_id": agent.extra.get("base_template_id"),
        "deployment_id": None,
        "entity_id": None,
        "memory_rendering": agent.memory_rendering,
        "thinking_retention": agent.thinking_retention,
        "created_at": iso(agent.created_us),
        "updated_at": iso(agent.updated_us),
        **_MINE,
    }


def _pending(view: AgentView) -> dict[str, Any] | None:
    if view.pending is None:
        return None
    asked = letta_messages([view.pending], types=["approval_request_message"])
    return asked[-1] if asked else None


def _secret(agent: Agent, key: str, value: str) -> dict[str, Any]:
    return {
        "key": key,
        "value": value,
        "agent_id": agent.id,
        "description": None,
        "value_enc": None,
        "created_at": iso(agent.created_us),
        "updated_at": iso(agent.updated_us),
        **_MINE,
    }


def _provider_type(agent: Agent) -> str:
    facts = agent.extra.get("model") or {}
    for candidate in (
        agent.model_settings.raw.get("provider_type"),
        facts.get("provider_name"),
        facts.get("endpoint_type"),
    ):
        if candidate in _PROVIDER_TYPES:
            return candidate
    return "openai"


def model_settings(agent: Agent) -> dict[str, Any]:
    """As they were sent, with what was not said filled in by what is done without it."""
    settings = agent.model_settings
    found: dict[str, Any] = {
        "provider_type": _provider_type(agent),
        "parallel_tool_calls": settings.parallel_tool_calls,
        "strict": settings.strict,
        "response_format": settings.response_format,
        **settings.raw,
    }
    for key in _SHOWN_SETTINGS:
        if (value := getattr(settings, key)) is not None:
            found.setdefault(key, value)
    if settings.reasoning_effort is not None and "effort" not in found:
        found.setdefault("reasoning", {"reasoning_effort": settings.reasoning_effort})
    return found


_SHOWN_SETTINGS = ("max_output_tokens", "temperature", "frequency_penalty", "tool_call_parser", "top_logprobs")


def llm_config(agent: Agent) -> dict[str, Any]:
    """The deprecated view of the model and its settings."""
    facts: dict[str, Any] = agent.extra.get("model") or {}
    settings = agent.model_settings
    provider, _, name = agent.model.partition("/")
    found: dict[str, Any] = {
        "model": name,
        "display_name": name,
        "handle": agent.model,
        "model_endpoint_type": facts.get("endpoint_type") or "openai",
        "model_endpoint": facts.get("endpoint"),
        "model_wrapper": None,
        "provider_name": facts.get("provider_name") or provider,
        "provider_category": "base",
        "context_window": agent.context_window,
        "put_inner_thoughts_in_kwargs": False,
        "max_tokens": settings.max_output_tokens,
        "enable_reasoner": settings.enable_thinking is not False,
        "reasoning_effort": settings.reasoning_effort,
        "max_reasoning_tokens": _thinking_budget(settings),
        "effort": settings.raw.get("effort"),
        "verbosity": settings.raw.get("verbosity"),
        "frequency_penalty": settings.frequency_penalty,
        "compatibility_type": None,
        "tier": None,
        "parallel_tool_calls": settings.parallel_tool_calls,
        "response_format": settings.response_format,
        "strict": settings.strict,
        "return_logprobs": settings.return_logprobs,
        "top_logprobs": settings.top_logprobs,
        "return_token_ids": settings.return_token_ids,
        "tool_call_parser": settings.tool_call_parser,
    }
    if settings.temperature is not None:
        found["temperature"] = settings.temperature
    return found


def _thinking_budget(settings: ModelSettings) -> int:
    thinking = settings.raw.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    return budget if isinstance(budget, int) else 0


def block_json(block: Block) -> dict[str, Any]:
    extra = block.extra
    return {
        "id": block.id,
        "label": block.label,
        "value": block.value,
        "limit": block.limit,
        "description": block.description,
        "read_only": block.read_only,
        "metadata": block.metadata,
        "tags": list(block.tags),
        "hidden": block.hidden,
        "is_template": block.is_template,
        "project_id": extra.get("project_id"),
        "template_name": extra.get("template_name"),
        "template_id": extra.get("template_id"),
        "base_template_id": extra.get("base_template_id"),
        "deployment_id": extra.get("deployment_id"),
        "entity_id": extra.get("entity_id"),
        "preserve_on_migration": extra.get("preserve_on_migration", False),
        **_MINE,
    }


def tool_json(tool: Tool) -> dict[str, Any]:
    return {
        "id": tool.id,
        "name": tool.name,
        "tool_type": tool.tool_type,
        "description": tool.description,
        "source_type": tool.source_type,
        "source_code": tool.source_code,
        "json_schema": tool.json_schema,
        "args_json_schema": tool.args_json_schema,
        "tags": list(tool.tags),
        "return_char_limit": tool.return_char_limit,
        "pip_requirements": tool.pip_requirements,
        "npm_requirements": tool.npm_requirements,
        "default_requires_approval": tool.default_requires_approval,
        "enable_parallel_execution": tool.enable_parallel_execution,
        "metadata_": tool.metadata,
        "project_id": None,
        **_MINE,
    }


def run_state(run: Run) -> dict[str, Any]:
    config = run.config
    metadata = dict(run.metadata or {})
    if run.error:
        metadata["error"] = run.error
    return {
        "id": run.id,
        "agent_id": run.agent_id,
        "conversation_id": None if run.conversation_id == run.agent_id else run.conversation_id,
        "status": run.status,
        "stop_reason": run.stop_reason,
        "background": run.background,
        "created_at": iso(run.created_us),
        "completed_at": iso(run.completed_us),
        "metadata": metadata or None,
        "request_config": {
            "use_assistant_message": config.use_assistant_message,
            "assistant_message_tool_name": config.assistant_message_tool_name,
            "assistant_message_tool_kwarg": config.assistant_message_tool_kwarg,
            "include_return_message_types": _list_or_none(config.include_return_message_types),
        },
        "callback_url": config.callback_url,
        "callback_sent_at": metadata.get("callback_sent_at"),
        "callback_status_code": metadata.get("callback_status_code"),
        "callback_error": metadata.get("callback_error"),
        "ttft_ns": run.ttft_ns,
        "total_duration_ns": run.total_duration_ns,
        "base_template_id": None,
    }


def _list_or_none(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


def run_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": _prompt_details(usage),
        "completion_tokens_details": _completion_details(usage),
    }


def _prompt_details(usage: Usage) -> dict[str, Any] | None:
    if usage.cached_input_tokens is None and usage.cache_write_tokens is None:
        return None
    return {
        "cached_tokens": usage.cached_input_tokens,
        "cache_read_tokens": None,
        "cache_creation_tokens": usage.cache_write_tokens,
    }


def _completion_details(usage: Usage) -> dict[str, Any] | None:
    return None if usage.reasoning_tokens is None else {"reasoning_tokens": usage.reasoning_tokens}


def run_metrics(run: Run, tools_used: list[str]) -> dict[str, Any]:
    return {
        "id": run.id,
        "agent_id": run.agent_id,
        "project_id": None,
        "run_start_ns": run.created_us * 1000,
        "run_ns": run.total_duration_ns,
        "num_steps": run.step_count,
        "tools_used": tools_used,
        "template_id": None,
        "base_template_id": None,
    }


def step_json(step: Step) -> dict[str, Any]:
    usage = step.usage
    return {
        "id": step.id,
        "origin": None,
        "provider_id": None,
        "run_id": step.run_id,
        "agent_id": step.agent_id,
        "provider_name": step.provider_name,
        "provider_category": "base",
        "model": step.model,
        "model_handle": step.model_handle,
        "model_endpoint": step.model_endpoint,
        "context_window_limit": step.context_window,
        "completion_tokens": usage.completion_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.total_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "completion_tokens_details": _completion_details(usage),
        "prompt_tokens_details": _prompt_details(usage),
        "stop_reason": step.stop_reason,
        "tags": list(step.tags),
        "tid": None,
        "trace_id": step.trace_id,
        "request_id": None,
        "messages": [],
        "feedback": step.feedback,
        "project_id": None,
        "error_type": step.error_type,
        "error_data": step.error_data,
        "status": step.status,
        "created_at": iso(step.created_us),
        "not_exact": step.not_exact,
    }


def step_metrics(step: Step) -> dict[str, Any]:
    return {
        "id": step.id,
        "provider_id": None,
        "run_id": step.run_id,
        "agent_id": step.agent_id,
        "step_start_ns": step.step_start_ns,
        "llm_request_start_ns": step.llm_request_start_ns,
        "llm_request_ns": step.llm_request_ns,
        "tool_execution_ns": step.tool_execution_ns,
        "step_ns": step.step_ns,
        "ttft_ns": step.ttft_ns,
        "base_template_id": None,
        "template_id": None,
        "project_id": None,
    }


def provider_trace(step: Step, trace: Trace) -> dict[str, Any]:
    return {
        "id": f"provider_trace-{step.id.removeprefix('step-')}",
        "request_json": _kept_json(trace.request),
        "response_json": _kept_json(trace.response),
        "step_id": step.id,
        "agent_id": step.agent_id,
        "agent_tags": None,
        "call_type": "agent_step",
        "run_id": step.run_id,
        "source": None,
        "org_id": None,
        "compaction_settings": None,
        "llm_config": None,
        "billing_context": None,
        "created_at": iso(trace.created_us),
        "updated_at": iso(trace.created_us),
        **_MINE,
    }


def _kept_json(data: bytes) -> Any:
    """The stored JSON; what was cut for size is shown as the text it is."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {"truncated": data.decode("utf-8", "replace")}


def model_json(info: ModelInfo) -> dict[str, Any]:
    window = info.context_window or 32_768
    return {
        "handle": info.handle,
        "name": info.name,
        "display_name": info.name,
        "provider_type": info.provider_type,
        "provider_name": info.provider_name,
        "provider_category": "base",
        "model_type": "llm",
        "model": info.name,
        "model_endpoint_type": info.endpoint_type,
        "model_endpoint": info.endpoint,
        "model_wrapper": None,
        "context_window": window,
        "max_context_window": window,
        "put_inner_thoughts_in_kwargs": False,
        "temperature": 1.0,
        "max_tokens": None,
        "enable_reasoner": True,
        "reasoning_effort": None,
        "max_reasoning_tokens": 0,
        "effort": None,
        "frequency_penalty": None,
        "compatibility_type": None,
        "verbosity": None,
        "tier": None,
        "parallel_tool_calls": True,
        "response_format": None,
        "strict": False,
        "return_logprobs": False,
        "top_logprobs": None,
        "return_token_ids": False,
        "tool_call_parser": None,
    }


def embedding_model_json(info: ModelInfo) -> dict[str, Any]:
    return {
        "handle": info.handle,
        "name": info.name,
        "display_name": info.name,
        "provider_type": info.provider_type,
        "provider_name": info.provider_name,
        "model_type": "embedding",
        "embedding_endpoint_type": info.endpoint_type,
        "embedding_endpoint": info.endpoint,
        "embedding_model": info.name,
        "embedding_dim": info.embedding_dim or 0,
        "embedding_chunk_size": 300,
        "batch_size": 32,
        "azure_endpoint": None,
        "azure_version": None,
        "azure_deployment": None,
    }


def passage_json(passage: Passage) -> dict[str, Any]:
    return {
        "id": passage.id,
        "text": passage.text,
        "tags": list(passage.tags),
        "metadata": passage.metadata,
        "archive_id": None,
        "source_id": None,
        "file_id": None,
        "file_name": None,
        "is_deleted": False,
        "embedding": None,
        "embedding_config": None,
        "created_at": iso(passage.created_us),
        "updated_at": iso(passage.created_us),
        **_MINE,
    }


def execution_result(result: ToolResult) -> dict[str, Any]:
    return {
        "status": result.status,
        "func_return": result.value,
        "agent_state": None,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "sandbox_config_fingerprint": None,
    }


def tool_return_message(name: str, result: SandboxResult) -> dict[str, Any]:
    """What a tool run from its source answers: a tool_return_message of no conversation."""
    text = result.value if result.status == "success" else (result.error or "The tool failed.")
    answer = ToolReturn(
        tool_call_id=new_id("call"),
        name=name,
        status=result.status,
        content=text,
        stdout=tuple(result.stdout) or None,
        stderr=tuple(result.stderr) or None,
    )
    message = Message(id=new_id("message"), role="tool", created_us=now_us(), tool_returns=(answer,))
    return letta_messages([message])[0] | {"name": name}
