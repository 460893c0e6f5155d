"""Tools and their attachment to agents. Names are unique."""

from collections.abc import Sequence

import msgspec

from perdure.core.agents import Tool
from perdure.core.errors import Invalid, NotFound
from perdure.store.base import Built, Many, Query, Tx
from perdure.store.codec import tool_from_row, tool_params
from perdure.store.listing import Filters, Page, Source, contains, list_rows

_TOOLS = Source("t.body", "tools", "t")
_ATTACHED = Source("t.body", "tools", "t", "JOIN agent_tools a ON a.tool_id = t.id")


class ToolFilter(msgspec.Struct, frozen=True, kw_only=True):
    """None: not filtered by. An empty tuple matches nothing."""

    name: str | None = None
    names: tuple[str, ...] | None = None
    tool_ids: tuple[str, ...] | None = None
    search: str | None = None
    tool_types: tuple[str, ...] | None = None
    exclude_tool_types: tuple[str, ...] | None = None
    only_built_in: bool = False


CUSTOM_TYPES = ("custom", "external_mcp")


def create_tool(tool: Tool) -> Tx[None]:
    """Invalid if the name is taken."""
    yield from _check_name(tool)
    yield Query("insert_tool", tool_params(tool))


def insert_tools(tools: Sequence[Tool]) -> Tx[None]:
    """Tools whose names are known to be free."""
    yield Many("insert_tool", [tool_params(tool) for tool in tools])


def replace_tool(tool: Tool) -> Tx[list[str]]:
    """Write an edited tool; answers the agents that have it, whose prompts and calls may change."""
    yield from _check_name(tool)
    if not (yield Query("change_tool", tool_params(tool))):
        raise NotFound(f"Tool {tool.id} not found")
    yield Query("bump_agents_of_tool", {"tool_id": tool.id, "now": tool.updated_us})
    return (yield from agents_of_tool(tool.id))


def _check_name(tool: Tool) -> Tx[None]:
    rows = yield Query("tool_by_name", {"name": tool.name})
    if rows and (other := tool_from_row(rows[0])).id != tool.id:
        raise Invalid(f"A tool named {tool.name!r} exists already ({other.id}). Choose another function name.")


def tool_by_id(tool_id: str) -> Tx[Tool]:
    rows = yield Query("tool_by_id", {"id": tool_id})
    if not rows:
        raise NotFound(f"Tool {tool_id} not found")
    return tool_from_row(rows[0])


def find_tool(name: str) -> Tx[Tool | None]:
    rows = yield Query("tool_by_name", {"name": name})
    return tool_from_row(rows[0]) if rows else None


def delete_tool(tool_id: str, now: int) -> Tx[list[str]]:
    """Delete the tool wherever it is attached; answers the agents that had it."""
    agent_ids = yield from agents_of_tool(tool_id)
    yield Query("bump_agents_of_tool", {"tool_id": tool_id, "now": now})
    if not (yield Query("delete_tool", {"id": tool_id})):
        raise NotFound(f"Tool {tool_id} not found")
    yield Query("delete_tool_links", {"tool_id": tool_id})
    return agent_ids


def attach_tool(agent_id: str, tool_id: str) -> Tx[bool]:
    """False if it was attached already."""
    rows = yield Query("attach_tool", {"agent_id": agent_id, "tool_id": tool_id})
    return bool(rows)


def detach_tool(agent_id: str, tool_id: str) -> Tx[bool]:
    """False if it was not attached."""
    rows = yield Query("detach_tool", {"agent_id": agent_id, "tool_id": tool_id})
    return bool(rows)


def tools_of_agent(agent_id: str) -> Tx[tuple[Tool, ...]]:
    """In order of attachment."""
    rows = yield Query("tools_of_agent", {"agent_id": agent_id})
    return tuple(tool_from_row(row) for row in rows)


def agents_of_tool(tool_id: str) -> Tx[list[str]]:
    rows = yield Query("agents_of_tool", {"tool_id": tool_id})
    return [row[0] for row in rows]


def list_tools(wanted: ToolFilter, page: Page) -> Tx[list[Tool]]:
    filters = Filters()
    if wanted.name is not None:
        filters.add("t.name = :name", name=wanted.name)
    if wanted.names is not None:
        filters.add_in("t.name", "name", wanted.names)
    if wanted.tool_ids is not None:
        filters.add_in("t.id", "tool_id", wanted.tool_ids)
    if wanted.search:
        filters.add("LOWER(t.name) LIKE LOWER(:in_name) ESCAPE '!'", in_name=contains(wanted.search))
    if wanted.tool_types is not None:
        filters.add_in("t.tool_type", "type", wanted.tool_types)
    if wanted.exclude_tool_types is not None:
        filters.add_in("t.tool_type", "not_type", wanted.exclude_tool_types, negated=True)
    if wanted.only_built_in:
        filters.add_in("t.tool_type", "custom", CUSTOM_TYPES, negated=True)
    rows = yield from list_rows(_TOOLS, filters, page, what="Tool")
    return [tool_from_row(row) for row in rows]


def list_tools_of_agent(agent_id: str, page: Page) -> Tx[list[Tool]]:
    filters = Filters()
    filters.add("a.agent_id = :agent_id", agent_id=agent_id)
    rows = yield from list_rows(_ATTACHED, filters, page, what="Tool")
    return [tool_from_row(row) for row in rows]


def tools_of_agents(agent_ids: Sequence[str]) -> Tx[dict[str, list[Tool]]]:
    """The tools of several agents at once, in order of attachment; a tool shared by several is one value."""
    found: dict[str, list[Tool]] = {agent_id: [] for agent_id in agent_ids}
    filters = Filters()
    filters.add_in("a.agent_id", "agent", list(agent_ids))
    links = yield Built(
        f"SELECT a.agent_id, a.tool_id FROM agent_tools a WHERE {filters.conditions[0]} ORDER BY a.position",
        filters.params,
    )
    tools = yield from tools_by_ids(list({tool_id for _, tool_id in links}))
    for agent_id, tool_id in links:
        found[agent_id].append(tools[tool_id])
    return found


def tools_by_ids(tool_ids: Sequence[str]) -> Tx[dict[str, Tool]]:
    """Those that exist, by id."""
    if not tool_ids:
        return {}
    filters = Filters()
    filters.add_in("id", "tool", tool_ids)
    rows = yield Built(f"SELECT body FROM tools WHERE {filters.conditions[0]}", filters.params)
    return {tool.id: tool for tool in map(tool_from_row, rows)}


def tools_by_names(names: Sequence[str]) -> Tx[dict[str, Tool]]:
    """Those that exist, by name."""
    if not names:
        return {}
    filters = Filters()
    filters.add_in("name", "tool", names)
    rows = yield Built(f"SELECT body FROM tools WHERE {filters.conditions[0]}", filters.params)
    return {tool.name: tool for tool in map(tool_from_row, rows)}


def built_in_tools() -> Tx[dict[str, Tool]]:
    rows = yield Query("built_in_tools")
    return {tool.name: tool for tool in map(tool_from_row, rows)}
