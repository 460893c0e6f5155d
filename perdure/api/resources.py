"""Agents, blocks, tools and models as Letta JSON. Archives, runs and messages: the other `*_resources.py` and `to_wire.py`."""

from typing import Any

from perdure.api.compaction_settings import shown_compaction
from perdure.api.model_settings import llm_config, shown_settings
from perdure.api.paging import EVERYTHING, Relations
from perdure.api.to_wire import iso, letta_messages
from perdure.core.agents import Agent, Block, Tool
from perdure.core.groups import Group, Progress
from perdure.core.ids import DEFAULT_USER_ID
from perdure.core.vault import Vault
from perdure.providers.base import ModelInfo
from perdure.store.agents import AgentView

MINE = {"created_by_id": DEFAULT_USER_ID, "last_updated_by_id": DEFAULT_USER_ID}


def agent_state(view: AgentView, vault: Vault, shown: Relations = EVERYTHING) -> dict[str, Any]:
    """What `shown` leaves out is an empty list; `pending_approval` is only there when it was asked for.

    `vault` opens the agent's secrets: who may call this server may read them.
    """
    agent = view.bundle.agent
    blocks = [block_json(block) for block in view.bundle.blocks] if shown.blocks else []
    opened = vault.open_all(agent.secrets) if shown.secrets else {}
    secrets = [_secret(agent, key, value) for key, value in opened.items()]
    settings = shown_settings(agent)
    group = group_json(view.bundle.group, view.progress) if shown.group and view.bundle.group is not None else None
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
        "compaction_settings": shown_compaction(agent.compaction_settings),
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
        "managed_group": group,
        "multi_agent_group": group,
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
        **MINE,
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
        **MINE,
    }


def group_json(group: Group, progress: Progress | None = None) -> dict[str, Any]:
    """`progress` None: it was not looked up, as within an agent."""
    return {
        "id": group.id,
        "manager_type": group.manager_type,
        "agent_ids": list(group.agent_ids),
        "description": group.description,
        "project_id": group.project_id,
        "template_id": None,
        "base_template_id": None,
        "deployment_id": None,
        "shared_block_ids": list(group.shared_block_ids),
        "manager_agent_id": group.manager_agent_id,
        "termination_token": group.termination_token,
        "max_turns": group.max_turns,
        "sleeptime_agent_frequency": group.frequency,
        "turns_counter": progress.turns if progress is not None and group.manager_type == "sleeptime" else None,
        "last_processed_message_id": progress.last_message_id if progress is not None else None,
        "max_message_buffer_length": group.max_buffer,
        "min_message_buffer_length": group.min_buffer,
        "hidden": group.hidden,
    }


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
        **MINE,
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
        **({"idempotent": True} if tool.idempotent else {}),
        **MINE,
    }


def model_json(info: ModelInfo) -> dict[str, Any]:
    """`context_window` null: neither the provider nor its maker says."""
    return {
        "handle": info.handle,
        "name": info.name,
        "display_name": info.name,
        "provider_type": info.provider_type,
        "provider_name": info.provider_name,
        "provider_category": info.category,
        "model_type": "llm",
        "model": info.name,
        "model_endpoint_type": info.endpoint_type,
        "model_endpoint": info.endpoint,
        "model_wrapper": None,
        "context_window": info.context_window,
        "max_context_window": info.context_window,
        "put_inner_thoughts_in_kwargs": True,
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
