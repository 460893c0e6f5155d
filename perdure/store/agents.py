"""Agents with what is linked to them: blocks, tools, tags, the default conversation.

An agent, its links and its default conversation (whose id is the agent's) come and go in one transaction.
"""

from collections.abc import Collection, Sequence
from typing import Any

from msgspec import Struct

from perdure.core.agents import Agent, AgentBundle, Block, Tool
from perdure.core.conversations import Conversation
from perdure.core.errors import Conflict, NotFound
from perdure.core.groups import Progress
from perdure.core.ids import now_us
from perdure.core.messages import Message
from perdure.store.approvals import pending_request
from perdure.store.archives import delete_archives_of_agent
from perdure.store.base import Many, Query, Tx, together
from perdure.store.blocks import block_by_id, blocks_of_agent, blocks_of_agents
from perdure.store.codec import AGENT_COLUMNS, agent_from_row, agent_params, block_params
from perdure.store.conversation_reads import contexts
from perdure.store.conversations import create_conversation
from perdure.store.groups import delete_group, group_of_manager, groups_of_managers, leave_groups, progress
from perdure.store.listing import Filters, Page, Source, contains, list_rows
from perdure.store.messages import insert_messages
from perdure.store.tags import add_tags, filter_by_tags, tags_of
from perdure.store.tools import tool_by_id, tools_of_agent, tools_of_agents

_AGENTS = Source(AGENT_COLUMNS.format("a"), "agents", "a")
_AGENTS_OF_BLOCK = Source(AGENT_COLUMNS.format("a"), "agents", "a", "JOIN agent_blocks ab ON ab.agent_id = a.id")


class AgentView(Struct, frozen=True, kw_only=True):
    """An agent as a client is shown it. `message_ids`: the context of its default conversation. `pending`: the approval
    request that waits for an answer, where it was asked for. `progress`: how far the group it manages has come."""

    bundle: AgentBundle
    message_ids: tuple[str, ...] = ()
    pending: Message | None = None
    progress: Progress | None = None


class AgentFilter(Struct, frozen=True, kw_only=True):
    """None: not filtered by."""

    name: str | None = None
    tags: tuple[str, ...] = ()
    match_all_tags: bool = False
    query_text: str | None = None
    project_id: str | None = None
    last_stop_reason: str | None = None
    with_hidden: bool = False
    block_id: str | None = None


def create_agent(
    bundle: AgentBundle,
    *,
    new_blocks: Collection[str],
    system_message: Message,
    first_messages: tuple[Message, ...] = (),
    in_context: tuple[str, ...] | None = None,
) -> Tx[None]:
    """Store a new agent. Of the bundle's blocks those with an id in `new_blocks` are created, the others are attached.

    NotFound for a block or tool that is gone, Conflict for two blocks of one label. `first_messages` follow the compiled
    `system_message` in the default conversation, in its context too, unless `in_context` says which ids make that up.
    """
    agent = bundle.agent
    yield Query("insert_agent", agent_params(agent), later=True)
    yield from _create_blocks(agent.id, bundle.blocks, new_blocks)
    yield from _attach_tools(agent.id, bundle.tools)
    yield from add_tags("agent", agent.id, bundle.tags)
    conversation = Conversation(id=agent.id, agent_id=agent.id, created_us=agent.created_us)
    if in_context is not None:
        yield from insert_messages((system_message, *first_messages))
        yield from create_conversation(conversation, None, agent.revision, shared_ids=in_context)
        return
    yield from create_conversation(conversation, system_message, agent.revision)
    yield from insert_messages(first_messages)


def _create_blocks(agent_id: str, blocks: Sequence[Block], new: Collection[str]) -> Tx[None]:
    yield Many("add_block", [block_params(block) for block in blocks if block.id in new], later=True)
    attached: dict[str, str] = {}
    for block in blocks:
        if block.id in new:
            yield from add_tags("block", block.id, block.tags)
        else:
            block = yield from block_by_id(block.id)
        if block.label in attached:
            raise Conflict(f"Two blocks are labelled {block.label!r}. An agent's blocks need different labels.")
        attached[block.label] = block.id
    links = [
        {"agent_id": agent_id, "block_id": block_id, "label": label, "position": at}
        for at, (label, block_id) in enumerate(attached.items(), 1)
    ]
    yield Many("attach_block_at", links, later=True)


def _attach_tools(agent_id: str, tools: Sequence[Tool]) -> Tx[None]:
    """Links only tools that are still there, so a missing one shows in the count."""
    if not tools:
        return
    links = [{"agent_id": agent_id, "tool_id": tool.id, "position": at} for at, tool in enumerate(tools, 1)]
    yield Many("attach_tool_at", links)
    rows = yield Query("count_agent_tools", {"agent_id": agent_id})
    if rows[0][0] != len(tools):
        for tool in tools:
            yield from tool_by_id(tool.id)


def agent_by_id(agent_id: str) -> Tx[Agent]:
    rows = yield Query("agent_by_id", {"id": agent_id})
    if not rows:
        raise NotFound("Agent not found")
    return agent_from_row(rows[0])


def wants_token_ids(agent_id: str) -> Tx[bool]:
    """Whether the agent's settings ask for the token record of all its runs; False for one that is gone."""
    rows = yield Query("agent_by_id", {"id": agent_id})
    return bool(rows) and agent_from_row(rows[0]).model_settings.return_token_ids


def check_agent(agent_id: str) -> Tx[None]:
    """NotFound unless there is such an agent."""
    if not (yield Query("agent_exists", {"id": agent_id})):
        raise NotFound("Agent not found")


def timezones(agent_ids: Collection[str]) -> Tx[dict[str, str]]:
    """Where the agents are, as far as they are still there."""
    found: dict[str, str] = {}
    for agent_id in agent_ids:
        rows = yield Query("agent_by_id", {"id": agent_id})
        if rows:
            found[agent_id] = agent_from_row(rows[0]).timezone
    return found


def agent_bundle(agent_id: str) -> Tx[AgentBundle]:
    return _bundle((yield from together(*_parts(agent_id))))


def _parts(agent_id: str) -> tuple[Tx[Any], ...]:
    return (
        agent_by_id(agent_id),
        blocks_of_agent(agent_id),
        tools_of_agent(agent_id),
        tags_of("agent", agent_id),
        group_of_manager(agent_id),
    )


def _bundle(parts: Sequence[Any]) -> AgentBundle:
    agent, blocks, tools, tags, group = parts
    return AgentBundle(agent=agent, blocks=blocks, tools=tools, tags=tags, group=group)


def agent_view(agent_id: str, *, pending: bool = False) -> Tx[AgentView]:
    *parts, context = yield from together(*_parts(agent_id), contexts([agent_id]))
    bundle = _bundle(parts)
    message_ids = context[agent_id]
    waiting = (yield from pending_request(agent_id, now_us())) if pending else None
    done = (yield from progress(bundle.group.id)) if bundle.group is not None else None
    return AgentView(bundle=bundle, message_ids=message_ids, pending=waiting, progress=done)


def replace_agent(agent: Agent) -> Tx[int]:
    """Write an edited agent; answers its new revision."""
    rows = yield Query("update_agent", agent_params(agent))
    if not rows:
        raise NotFound("Agent not found")
    return rows[0][0]


def bump_agent(agent_id: str, now: int) -> Tx[int]:
    """Note a change of something linked to the agent; answers its new revision."""
    rows = yield Query("bump_agent", {"id": agent_id, "now": now})
    if not rows:
        raise NotFound("Agent not found")
    return rows[0][0]


_OF_AN_AGENT = (
    "delete_agent_links_blocks",
    "delete_agent_links_tools",
    "delete_agent_private_tags",
    "delete_agent_private_blocks",
    "delete_agent_private_links",
    "delete_agent_shared_messages",
    "unindex_messages_of_agent",
    "delete_scope_vectors",
    "delete_agent_messages",
    "index_from_the_end",
    "delete_agent_otids",
    "delete_agent_request_keys",
    "delete_agent_calls",
    "delete_agent_experts",
    "delete_agent_segments",
    "delete_agent_conversations",
    "delete_agent_events",
    "delete_agent_traces",
    "delete_agent_trace_bases",
    "delete_agent_callbacks",
    "delete_agent_runs",
    "delete_agent_ticks",
    "delete_agent_schedules",
)


def delete_agent(agent_id: str) -> Tx[None]:
    """Delete the agent and what only it has: its sleeptime agents too, and the group it manages. Its blocks and tools stay,
    and the steps' counts, which hold no content."""
    now = now_us()
    if not (yield Query("delete_agent", {"id": agent_id})):
        raise NotFound("Agent not found")
    group = yield from group_of_manager(agent_id)
    if group is not None:
        yield from delete_group(group.id, now)
        for member in group.agent_ids if group.own_members else ():
            yield from delete_agent(member)
    yield from leave_groups(agent_id, now)
    yield from delete_archives_of_agent(agent_id, now)
    for name in _OF_AN_AGENT:
        yield Query(name, {"id": agent_id})
    yield Query("delete_marks", {"agent_id": agent_id})
    yield Query("delete_tags", {"kind": "agent", "entity_id": agent_id})


def list_agents(
    wanted: AgentFilter,
    page: Page,
    *,
    blocks: bool,
    tools: bool,
    tags: bool,
    pending: bool = False,
    groups: bool = False,
) -> Tx[list[AgentView]]:
    """One page; the links that were not asked for are left empty."""
    filters = Filters()
    if wanted.name is not None:
        filters.add("a.name = :name", name=wanted.name)
    if wanted.query_text:
        filters.add("LOWER(a.name) LIKE LOWER(:in_name) ESCAPE '!'", in_name=contains(wanted.query_text))
    if wanted.tags:
        filter_by_tags(filters, "agent", "a.id", list(wanted.tags), match_all=wanted.match_all_tags)
    if wanted.project_id is not None:
        filters.add("a.project_id = :project_id", project_id=wanted.project_id)
    if wanted.last_stop_reason is not None:
        filters.add("a.last_stop_reason = :reason", reason=wanted.last_stop_reason)
    if not wanted.with_hidden:
        filters.add("a.hidden = 0")
    source = _AGENTS
    if wanted.block_id is not None:
        source = _AGENTS_OF_BLOCK
        filters.add("ab.block_id = :block_id", block_id=wanted.block_id)
    rows = yield from list_rows(source, filters, page, what="Agent")
    agents = [agent_from_row(row) for row in rows]
    return (yield from _views(agents, blocks=blocks, tools=tools, tags=tags, pending=pending, groups=groups))


def _views(
    agents: Sequence[Agent], *, blocks: bool, tools: bool, tags: bool, pending: bool, groups: bool
) -> Tx[list[AgentView]]:
    ids = [agent.id for agent in agents]
    if not ids:
        return []
    shown = yield from contexts(ids)
    of_blocks = (yield from blocks_of_agents(ids)) if blocks else {}
    of_tools = (yield from tools_of_agents(ids)) if tools else {}
    of_tags: dict[str, tuple[str, ...]] = {}
    if tags:
        for agent_id in ids:
            of_tags[agent_id] = yield from tags_of("agent", agent_id)
    managed = (yield from groups_of_managers(ids)) if groups else {}
    waiting: dict[str, Message | None] = {}
    if pending:
        for agent_id in ids:
            waiting[agent_id] = yield from pending_request(agent_id, now_us())
    return [
        AgentView(
            bundle=AgentBundle(
                agent=agent,
                blocks=tuple(of_blocks.get(agent.id, ())),
                tools=tuple(of_tools.get(agent.id, ())),
                tags=of_tags.get(agent.id, ()),
                group=managed.get(agent.id),
            ),
            message_ids=shown.get(agent.id, ()),
            pending=waiting.get(agent.id),
        )
        for agent in agents
    ]


def agents_tagged(match_all: Sequence[str], match_some: Sequence[str], *, but: str, limit: int) -> Tx[list[str]]:
    """Ids of the agents, oldest first, that have all of `match_all` and, unless it is empty, one of `match_some`."""
    filters = Filters()
    filters.add("a.id <> :but", but=but)
    for at, tag in enumerate(dict.fromkeys(match_all)):
        filters.add(
            f"a.id IN (SELECT entity_id FROM tags WHERE kind = 'agent' AND tag = :all_{at})", **{f"all_{at}": tag}
        )
    if match_some:
        filter_by_tags(filters, "agent", "a.id", list(match_some), match_all=False)
    rows = yield from list_rows(
        Source("a.id", "agents", "a"), filters, Page(limit=limit, descending=False), what="Agent"
    )
    return [row[0] for row in rows]


def count_agents() -> Tx[int]:
    rows = yield Query("count_agents")
    return rows[0][0]
