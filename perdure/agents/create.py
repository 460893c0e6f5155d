"""Making an agent: model, blocks, tools, rules and its compiled default conversation, stored in one transaction."""

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from perdure.agents.edit_blocks import new_block
from perdure.agents.models import ChosenModel, choose_model
from perdure.agents.names import checked_name, made_up_name
from perdure.agents.recompile import first_system_message
from perdure.agents.spec import AgentSpec
from perdure.core.agents import Agent, AgentBundle, Block, Tool
from perdure.core.errors import Conflict, Invalid, NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message
from perdure.loop.rules import validate_rules
from perdure.memory.system_prompts import DEFAULT_SYSTEM_PROMPTS
from perdure.providers.registry import Registry
from perdure.store.agents import AgentView
from perdure.store.agents import create_agent as store_agent
from perdure.store.base import Store, Tx
from perdure.store.blocks import block_by_id
from perdure.store.tools import tools_by_ids, tools_by_names
from perdure.tools.registry import approval_rules_for, base_tools_for, default_rules_for


async def create_agent(
    store: Store,
    registry: Registry,
    spec: AgentSpec,
    *,
    default_model: str | None = None,
    first_messages: Sequence[Message] = (),
) -> AgentView:
    """Raises Invalid, NotFound or Conflict, with nothing stored. `first_messages` begin the default conversation."""
    name = checked_name(spec.name) if spec.name is not None else made_up_name()
    check_timezone(spec.timezone)
    chosen = await choose_model(
        registry, spec.model, default=default_model, context_window_limit=spec.context_window_limit
    )
    tools, blocks = await store.read(lambda: _linked(spec))
    now = now_us()
    made = tuple(
        new_block(block, now, field=f"memory_blocks[{at}].value") for at, block in enumerate(spec.memory_blocks)
    )
    check_labels((*made, *blocks))
    bundle = new_bundle(
        msgspec.structs.replace(spec, name=name),
        chosen,
        tools=tools,
        blocks=(*made, *blocks),
        rules=_rules(spec, tools),
        now=now,
    )
    agent = bundle.agent
    system = first_system_message(bundle)
    said = tuple(
        msgspec.structs.replace(message, agent_id=agent.id, conversation_id=agent.id, run_id=None)
        for message in first_messages
    )
    new_ids = frozenset(block.id for block in made)
    await store.write(lambda: store_agent(bundle, new_blocks=new_ids, system_message=system, first_messages=said))
    return AgentView(bundle=bundle, message_ids=(system.id, *(message.id for message in said)))


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


def _linked(spec: AgentSpec) -> Tx[tuple[tuple[Tool, ...], tuple[Block, ...]]]:
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
    """`enable_sleeptime` changes nothing here: as long as no sleeptime agent keeps the memory, the agent does so itself."""
    return base_tools_for(
        spec.agent_type,
        include_base_tools=spec.include_base_tools,
        include_multi_agent_tools=spec.include_multi_agent_tools,
    )


def _rules(spec: AgentSpec, tools: Sequence[Tool]) -> tuple[dict[str, Any], ...]:
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
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(
            f"timezone: {name!r} is not an IANA time zone, such as UTC or Europe/Paris", status=422
        ) from error


def _file_limits(context_window: int) -> tuple[int, int]:
    """(max_files_open, per_file_view_window_char_limit) that fit a context window."""
    for window, files, chars in ((8_000, 3, 5_000), (32_000, 5, 15_000), (128_000, 10, 25_000), (200_000, 10, 40_000)):
        if context_window <= window:
            return files, chars
    return 15, 40_000
