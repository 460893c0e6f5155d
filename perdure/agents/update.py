"""Changing an agent: whatever a prompt or a tool call could notice raises its revision and is compiled at once."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from perdure.agents.models import ChosenModel, check_summarizer, choose_model
from perdure.agents.names import checked_name
from perdure.agents.parts import check_labels, check_timezone
from perdure.agents.pins import check_pins
from perdure.agents.recompile import recompile_agents
from perdure.agents.sleeptime import set_sleeptime
from perdure.agents.spec import AgentChange
from perdure.core.agents import Agent, Block, ModelSettings
from perdure.core.errors import NotFound
from perdure.core.ids import now_us
from perdure.loop.rules import validate_rules
from perdure.providers.registry import Registry
from perdure.store import agents as agent_store
from perdure.store import blocks as block_store
from perdure.store import tools as tool_store
from perdure.store.agents import AgentView, agent_view
from perdure.store.approvals import forget_request
from perdure.store.base import Store, Tx
from perdure.store.conversations import set_context
from perdure.store.messages import message_by_id
from perdure.store.tags import set_tags
from perdure.tools.registry import approval_rules_for

_NOT_FIELDS = frozenset(
    {
        "model",
        "context_window_limit",
        "block_ids",
        "tool_ids",
        "message_ids",
        "tags",
        "tool_rules",
        "settings_changes",
        "extra",
    }
)


async def update_agent(store: Store, registry: Registry, agent_id: str, change: AgentChange) -> AgentView:
    """Raises Invalid, NotFound or Conflict, with nothing changed."""
    if change.name is not UNSET:
        checked_name(change.name)
    if change.timezone is not UNSET:
        check_timezone(change.timezone)
    if change.compaction_settings is not UNSET:
        await check_summarizer(registry, change.compaction_settings)
    rules = validate_rules(change.tool_rules) if change.tool_rules is not UNSET else None
    agent = await store.read(lambda: agent_store.agent_by_id(agent_id))
    chosen = await _chosen(registry, agent, change)
    return await store.write(lambda: _update(agent_id, change, chosen, rules), quick=True)


async def _chosen(registry: Registry, agent: Agent, change: AgentChange) -> ChosenModel | None:
    if change.model is UNSET and change.context_window_limit is UNSET:
        return None
    handle = agent.model if change.model is UNSET else change.model
    limit = None if change.context_window_limit is UNSET else change.context_window_limit
    if limit is None and handle == agent.model and not agent.extra.get("model", {}).get("assumed_window"):
        limit = agent.context_window
    return await choose_model(registry, handle, default=None, context_window_limit=limit)


def _update(
    agent_id: str, change: AgentChange, chosen: ChosenModel | None, rules: tuple[dict[str, Any], ...] | None
) -> Tx[AgentView]:
    before = yield from agent_store.agent_by_id(agent_id)
    if change.compaction_settings is not UNSET:
        yield from check_pins(agent_id, change.compaction_settings, before=before.compaction_settings)
    agent = _changed(before, change, chosen, rules)
    if change.tool_ids is not UNSET:
        agent = yield from _set_tools(agent, change.tool_ids)
    yield from agent_store.replace_agent(agent)
    if change.block_ids is not UNSET:
        yield from _set_blocks(agent_id, change.block_ids)
    if change.tags is not UNSET:
        yield from set_tags("agent", agent_id, change.tags)
    if change.message_ids is not UNSET:
        yield from _set_messages(agent, change.message_ids)
    if change.enable_sleeptime is not UNSET:
        yield from set_sleeptime(agent)
    told_only_by_prompt = (agent.system, agent.tool_rules) != (before.system, before.tool_rules)
    yield from recompile_agents([agent_id], "the agent was edited", even_appending=told_only_by_prompt)
    return (yield from agent_view(agent_id))


def _changed(
    agent: Agent, change: AgentChange, chosen: ChosenModel | None, rules: tuple[dict[str, Any], ...] | None
) -> Agent:
    fields = {
        key: value
        for key in change.__struct_fields__
        if key not in _NOT_FIELDS and (value := getattr(change, key)) is not UNSET
    }
    extra = agent.extra | change.extra
    if chosen is not None:
        fields |= {"model": chosen.handle, "context_window": chosen.context_window}
        extra = extra | {"model": chosen.facts}
    if rules is not None:
        fields["tool_rules"] = rules
    if change.settings_changes:
        settings = fields.get("model_settings", agent.model_settings)
        fields["model_settings"] = with_settings(settings, change.settings_changes)
    return msgspec.structs.replace(agent, **fields, extra=extra, updated_us=now_us())


def with_settings(settings: ModelSettings, changes: dict[str, Any]) -> ModelSettings:
    """Single settings changed; the caller's own object loses what it said of them."""
    raw = {key: value for key, value in settings.raw.items() if key not in changes}
    return msgspec.structs.replace(settings, **changes, raw=raw)


def _set_tools(agent: Agent, tool_ids: Sequence[str]) -> Tx[Agent]:
    """Exactly these tools, in their order of attachment; newly attached ones bring their approval rule."""
    wanted = yield from tool_store.tools_by_ids(tool_ids)
    if missing := [tool_id for tool_id in tool_ids if tool_id not in wanted]:
        raise NotFound(f"tool_ids: there is no tool {', '.join(missing)}")
    now = yield from tool_store.tools_of_agent(agent.id)
    had = {tool.id for tool in now}
    for tool_id in had - set(tool_ids):
        yield from tool_store.detach_tool(agent.id, tool_id)
    added = [wanted[tool_id] for tool_id in dict.fromkeys(tool_ids) if tool_id not in had]
    for tool in added:
        yield from tool_store.attach_tool(agent.id, tool.id)
    return with_approval_rules(agent, added)


def with_approval_rules(agent: Agent, tools: Sequence[Any]) -> Agent:
    given = {rule["tool_name"] for rule in agent.tool_rules if rule["type"] == "requires_approval"}
    new = [rule for rule in approval_rules_for(tools) if rule["tool_name"] not in given]
    return msgspec.structs.replace(agent, tool_rules=(*agent.tool_rules, *new)) if new else agent


def _set_blocks(agent_id: str, block_ids: Sequence[str]) -> Tx[None]:
    wanted: list[Block] = []
    for block_id in dict.fromkeys(block_ids):
        wanted.append((yield from block_store.block_by_id(block_id)))
    check_labels(wanted)
    had = yield from block_store.blocks_of_agent(agent_id)
    for block in had:
        if block.id not in block_ids:
            yield from block_store.detach_block(agent_id, block.id)
    for block in wanted:
        yield from block_store.attach_block(agent_id, block)


def _set_messages(agent: Agent, message_ids: Sequence[str]) -> Tx[None]:
    """The default conversation's context becomes exactly these messages."""
    for message_id in message_ids:
        found = yield from message_by_id(message_id)
        if found is None or found[1].agent_id != agent.id:
            raise NotFound(f"message_ids: message {message_id} is not one of agent {agent.id}")
    yield from set_context(
        agent.id,
        tuple(message_ids),
        cause="history_edit: the context's messages were set",
        compiled_revision=agent.revision,
        now=agent.updated_us,
    )
    yield from forget_request(agent.id, but=message_ids)
