"""What a new agent is made of: the tools, blocks, rules and limits that its spec and its type give it."""

from collections.abc import Sequence
from typing import Any

from perdure.agents.models import ChosenModel
from perdure.agents.names import made_up_name
from perdure.agents.spec import AgentSpec
from perdure.core.agents import Agent, AgentBundle, Block, Tool
from perdure.core.errors import Conflict, Invalid, NotFound
from perdure.core.ids import new_id
from perdure.core.timezones import time_zone
from perdure.loop.rules import validate_rules
from perdure.memory.system_prompts import DEFAULT_SYSTEM_PROMPTS
from perdure.store.base import Tx
from perdure.store.blocks import block_by_id
from perdure.store.tools import tools_by_ids, tools_by_names
from perdure.tools.registry import approval_rules_for, base_tools_for, default_rules_for


def new_bundle(
    spec: AgentSpec,
    chosen: ChosenModel,
    *,
    tools: tuple[Tool, ...],
    blocks: tuple[Block, ...],
    rules: tuple[dict[str, Any], ...],
    now: int,
) -> AgentBundle:
    """The agent a spec asks for, with a new id; nothing is checked or stored."""
    files_open, file_chars = _file_limits(chosen.context_window)
    agent = Agent(
        id=new_id("agent"),
        name=spec.name or made_up_name(),
        agent_type=spec.agent_type,
        system=spec.system if spec.system is not None else DEFAULT_SYSTEM_PROMPTS[spec.agent_type],
        model=chosen.handle,
        embedding=spec.embedding,
        context_window=chosen.context_window,
        model_settings=spec.model_settings,
        description=spec.description,
        metadata=spec.metadata,
        tool_rules=rules,
        secrets=spec.secrets,
        timezone=spec.timezone,
        compaction_settings=spec.compaction_settings,
        message_buffer_autoclear=spec.message_buffer_autoclear or spec.agent_type == "workflow_agent",
        enable_sleeptime=spec.enable_sleeptime,
        hidden=spec.hidden,
        max_files_open=spec.max_files_open or files_open,
        per_file_view_window_char_limit=spec.per_file_view_window_char_limit or file_chars,
        memory_rendering=spec.memory_rendering,
        thinking_retention=spec.thinking_retention,
        project_id=spec.project_id,
        extra={**spec.extra, "model": chosen.facts},
        created_us=now,
        updated_us=now,
    )
    return AgentBundle(agent=agent, blocks=blocks, tools=tools, tags=tuple(dict.fromkeys(spec.tags)))


def linked(spec: AgentSpec) -> Tx[tuple[tuple[Tool, ...], tuple[Block, ...]]]:
    """The tools and blocks the agent is to have that exist already, in the order they were named."""
    names = list(dict.fromkeys((*base_tool_names(spec), *spec.tools)))
    by_name = yield from tools_by_names(names)
    if missing := [name for name in names if name not in by_name]:
        raise Invalid(
            f"tools: there is no tool named {', '.join(map(repr, missing))}. Create it first, or leave it out."
        )
    by_id = yield from tools_by_ids(spec.tool_ids)
    if missing := [tool_id for tool_id in spec.tool_ids if tool_id not in by_id]:
        raise NotFound(f"tool_ids: there is no tool {', '.join(missing)}")
    tools = {tool.id: tool for tool in (*(by_name[name] for name in names), *(by_id[key] for key in spec.tool_ids))}
    blocks: list[Block] = []
    for block_id in dict.fromkeys(spec.block_ids):
        blocks.append((yield from block_by_id(block_id)))
    return tuple(tools.values()), tuple(blocks)


def base_tool_names(spec: AgentSpec) -> list[str]:
    return base_tools_for(
        spec.agent_type,
        include_base_tools=spec.include_base_tools,
        include_multi_agent_tools=spec.include_multi_agent_tools,
        enable_sleeptime=spec.enable_sleeptime,
    )


def own_rules(spec: AgentSpec, tools: Sequence[Tool]) -> tuple[dict[str, Any], ...]:
    """The caller's rules, then the type's own and the tools' for which the caller gave none of the kind."""
    rules = list(validate_rules(spec.tool_rules))
    given = {(rule["type"], rule["tool_name"]) for rule in rules}
    own = default_rules_for(
        spec.agent_type, [tool.name for tool in tools], include_base_tool_rules=spec.include_base_tool_rules
    )
    rules += [rule for rule in (*own, *approval_rules_for(tools)) if (rule["type"], rule["tool_name"]) not in given]
    return tuple(rules)


def check_labels(blocks: Sequence[Block]) -> None:
    seen: set[str] = set()
    for block in blocks:
        if block.label in seen:
            raise Conflict(f"Two blocks are labelled {block.label!r}. An agent's blocks need different labels.")
        seen.add(block.label)


def check_timezone(name: str) -> None:
    time_zone(name)


def _file_limits(context_window: int) -> tuple[int, int]:
    """(max_files_open, per_file_view_window_char_limit) that fit a context window."""
    for window, files, chars in ((8_000, 3, 5_000), (32_000, 5, 15_000), (128_000, 10, 25_000), (200_000, 10, 40_000)):
        if context_window <= window:
            return files, chars
    return 15, 40_000
