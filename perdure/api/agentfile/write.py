"""Agents as the JSON of an agent file. Ids become the file's own (`agent-0`, `block-0`, ...); of secrets only the names stay."""

from collections.abc import Mapping, Sequence
from typing import Any

import perdure
from perdure.agents.file_values import ExportedAgent
from perdure.agents.pins import with_pins
from perdure.api.agentfile.groups import file_group
from perdure.api.agentfile.messages import file_message
from perdure.api.agentfile.read import OURS
from perdure.api.compaction_settings import shown_compaction
from perdure.api.model_settings import llm_config, shown_settings
from perdure.api.resources import block_json, tool_json
from perdure.api.to_wire import iso
from perdure.core.agents import Agent, Block, ModelSettings, Tool
from perdure.core.groups import Group

_BLOCK_KEYS = (
    "value",
    "limit",
    "project_id",
    "template_name",
    "is_template",
    "template_id",
    "base_template_id",
    "deployment_id",
    "entity_id",
    "preserve_on_migration",
    "label",
    "read_only",
    "description",
    "metadata",
    "hidden",
    "tags",
)
_TOOL_KEYS = (
    "tool_type",
    "description",
    "source_type",
    "name",
    "tags",
    "source_code",
    "json_schema",
    "args_json_schema",
    "return_char_limit",
    "pip_requirements",
    "npm_requirements",
    "default_requires_approval",
    "enable_parallel_execution",
    "metadata_",
    "project_id",
)


def file_json(agents: Sequence[ExportedAgent], *, revision: str, now_us: int) -> dict[str, Any]:
    """The current format. `revision`: of the database's schema."""
    blocks: dict[str, Block] = {block.id: block for agent in agents for block in agent.bundle.blocks}
    tools: dict[str, Tool] = {tool.id: tool for agent in agents for tool in agent.bundle.tools}
    block_ids = {key: f"block-{at}" for at, key in enumerate(blocks)}
    tool_ids = {key: f"tool-{at}" for at, key in enumerate(tools)}
    agent_ids = {agent.bundle.agent.id: f"agent-{at}" for at, agent in enumerate(agents)}
    managed = [agent.bundle.group for agent in agents if agent.bundle.group is not None]
    groups = {f"group-{at}": group for at, group in enumerate(managed) if agent_ids.keys() >= set(group.agent_ids)}
    return {
        "agents": [
            _agent(agent, agent_ids[agent.bundle.agent.id], block_ids, tool_ids, _groups_of(agent, groups))
            for agent in agents
        ],
        "groups": [file_group(group, key, agent_ids, block_ids) for key, group in groups.items()],
        "blocks": [{"id": block_ids[key], **_picked(block_json(block), _BLOCK_KEYS)} for key, block in blocks.items()],
        "files": [],
        "sources": [],
        "tools": [{"id": tool_ids[key], **_picked(tool_json(tool), _TOOL_KEYS)} for key, tool in tools.items()],
        "mcp_servers": [],
        "skills": [],
        "metadata": {"revision_id": revision, OURS: perdure.__version__},
        "created_at": iso(now_us),
    }


def _groups_of(agent: ExportedAgent, groups: Mapping[str, Group]) -> list[str]:
    agent_id = agent.bundle.agent.id
    return [key for key, group in groups.items() if agent_id in (group.manager_agent_id, *group.agent_ids)]


def _picked(found: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: found[key] for key in keys}


def _agent(
    exported: ExportedAgent, file_id: str, blocks: dict[str, str], tools: dict[str, str], groups: list[str]
) -> dict[str, Any]:
    bundle = exported.bundle
    agent = bundle.agent
    secrets = dict.fromkeys(agent.secrets, "")
    ids = {message.id: f"message-{at}" for at, message in enumerate(exported.messages)}
    return {
        "name": agent.name,
        "memory_blocks": [],
        "tools": [],
        "tool_ids": [tools[tool.id] for tool in bundle.tools],
        "source_ids": [],
        "folder_ids": None,
        "block_ids": [blocks[block.id] for block in bundle.blocks],
        "tool_rules": list(agent.tool_rules),
        "tags": list(bundle.tags),
        "system": agent.system,
        "agent_type": agent.agent_type,
        "initial_message_sequence": None,
        "include_base_tools": False,
        "include_multi_agent_tools": False,
        "include_base_tool_rules": False,
        "include_default_source": False,
        "description": agent.description,
        "metadata": agent.metadata,
        "llm_config": llm_config(agent),
        "embedding_config": agent.extra.get("embedding_config"),
        "model": agent.model,
        "embedding": agent.embedding,
        "model_settings": settings_json(agent),
        "compaction_settings": shown_compaction(with_pins(agent.compaction_settings, ids)),
        "context_window_limit": agent.context_window,
        "response_format": agent.model_settings.response_format,
        "tool_exec_environment_variables": secrets,
        "secrets": secrets,
        "project_id": None,
        "template_id": None,
        "base_template_id": None,
        "identity_ids": None,
        "message_buffer_autoclear": agent.message_buffer_autoclear,
        "enable_sleeptime": agent.enable_sleeptime,
        "timezone": agent.timezone,
        "max_files_open": agent.max_files_open,
        "per_file_view_window_char_limit": agent.per_file_view_window_char_limit,
        "hidden": agent.hidden,
        "parallel_tool_calls": agent.model_settings.parallel_tool_calls,
        "memory_rendering": agent.memory_rendering,
        "thinking_retention": agent.thinking_retention,
        "id": file_id,
        "in_context_message_ids": [ids[key] for key in exported.in_context],
        "messages": [
            {**file_message(message, agent_id=file_id, timezone=agent.timezone), "id": ids[message.id]}
            for message in exported.messages
        ],
        "files_agents": [],
        "group_ids": groups,
    }


def settings_json(agent: Agent) -> dict[str, Any]:
    """As they are shown, with every setting that was ever made, however it was."""
    found, unsaid = shown_settings(agent), ModelSettings()
    for name in ModelSettings.__struct_fields__:
        value = getattr(agent.model_settings, name)
        if name not in ("raw", "reasoning_effort") and value != getattr(unsaid, name):
            found.setdefault(name, list(value) if isinstance(value, tuple) else value)
    return found
