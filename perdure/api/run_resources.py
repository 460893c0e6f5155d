"""Runs, steps and what tools answered, as Letta JSON."""

from typing import Any

import msgspec

from perdure.agents.run_tool import ToolResult
from perdure.api.resources import MINE
from perdure.api.to_wire import iso, letta_messages
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, ToolReturn
from perdure.core.runs import Run, Step, Usage
from perdure.store.steps import Trace
from perdure.tools.sandbox import SandboxResult


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
        "callback_sent_at": None,
        "callback_status_code": None,
        "callback_error": None,
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
        "call_type": step.call_type,
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
        "call_type": step.call_type,
        "run_id": step.run_id,
        "source": None,
        "org_id": None,
        "compaction_settings": None,
        "llm_config": None,
        "billing_context": None,
        "created_at": iso(trace.created_us),
        "updated_at": iso(trace.created_us),
        **MINE,
    }


def _kept_json(data: bytes) -> Any:
    """The stored JSON; what was cut for size is shown as the text it is."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {"truncated": data.decode("utf-8", "replace")}


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
