"""The built-in tools as rows, so that they can be listed, attached and looked up like any other tool.

Their definitions live in `tools/definitions.py`; the rows follow them at every start.
"""

import logging

import msgspec

from perdure.core.agents import Tool
from perdure.core.ids import new_id, now_us
from perdure.store.base import Query, Store, Tx
from perdure.store.codec import tool_params
from perdure.store.tools import built_in_tools, find_tool, insert_tools
from perdure.tools.registry import BUILTIN_TOOLS, Definition

log = logging.getLogger(__name__)


async def ensure_builtin_tools(store: Store) -> None:
    """Add what is missing and bring up to date what differs; writes nothing when there is nothing to do."""
    found = await store.read(built_in_tools)
    if _differing(found):
        await store.write(_bring_up_to_date)


def _differing(found: dict[str, Tool]) -> list[Definition]:
    return [definition for definition in BUILTIN_TOOLS.values() if not _matches(found.get(definition.name), definition)]


def _matches(tool: Tool | None, definition: Definition) -> bool:
    return tool is not None and _as_defined(tool, definition) == tool


def _as_defined(tool: Tool, definition: Definition) -> Tool:
    return msgspec.structs.replace(
        tool,
        tool_type=definition.tool_type,
        description=definition.description,
        json_schema=definition.json_schema,
        tags=definition.tags,
        enable_parallel_execution=definition.enable_parallel_execution,
        source_type="python",
        source_code=None,
    )


def _bring_up_to_date() -> Tx[None]:
    found = yield from built_in_tools()
    now = now_us()
    missing: list[Tool] = []
    for definition in _differing(found):
        tool = found.get(definition.name)
        if tool is not None:
            updated = msgspec.structs.replace(_as_defined(tool, definition), updated_us=now)
            yield Query("change_tool", tool_params(updated))
            yield Query("bump_agents_of_tool", {"tool_id": tool.id, "now": now})
        elif (custom := (yield from find_tool(definition.name))) is not None:
            log.warning("Tool %s has the name of the built-in %s and hides it: rename it.", custom.id, custom.name)
        else:
            blank = Tool(id=new_id("tool"), name=definition.name, created_us=now, updated_us=now)
            missing.append(_as_defined(blank, definition))
    if missing:
        yield from insert_tools(missing)
