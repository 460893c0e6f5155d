"""Tools as people create and change them; every agent that has one notices at its next prompt."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.agents.recompile import recompile_agents
from perdure.agents.update import with_approval_rules
from perdure.core.agents import DEFAULT_RETURN_CHAR_LIMIT, Tool
from perdure.core.errors import Invalid, NotFound
from perdure.core.ids import new_id, now_us
from perdure.store import agents as agent_store
from perdure.store import tools as tool_store
from perdure.store.base import Tx
from perdure.tools.registry import BUILTIN_TOOLS
from perdure.tools.schema import schema_from_source, validate_json_schema


class ToolSpec(Struct, frozen=True, kw_only=True):
    """A tool to be created, or put in the place of the one with its name."""

    source_code: str
    source_type: str = "python"
    description: str | None = None
    json_schema: dict[str, Any] | None = None
    args_json_schema: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    return_char_limit: int = DEFAULT_RETURN_CHAR_LIMIT
    pip_requirements: list[dict[str, Any]] | None = None
    npm_requirements: list[dict[str, Any]] | None = None
    default_requires_approval: bool | None = None
    enable_parallel_execution: bool = False
    metadata: dict[str, Any] | None = None
    allow_network: bool = False
    idempotent: bool = False


class ToolChange(Struct, frozen=True, kw_only=True):
    """UNSET: stays as it is."""

    source_code: str | UnsetType = UNSET
    source_type: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    json_schema: dict[str, Any] | UnsetType = UNSET
    args_json_schema: dict[str, Any] | UnsetType | None = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    return_char_limit: int | UnsetType = UNSET
    pip_requirements: list[dict[str, Any]] | UnsetType | None = UNSET
    npm_requirements: list[dict[str, Any]] | UnsetType | None = UNSET
    default_requires_approval: bool | UnsetType | None = UNSET
    enable_parallel_execution: bool | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    allow_network: bool | UnsetType = UNSET
    idempotent: bool | UnsetType = UNSET


def put_tool(spec: ToolSpec) -> Tx[Tool]:
    """Create the tool, or update the one of its name. Invalid says what is wrong with the source or its schema."""
    schema = schema_of(spec.source_code, spec.source_type, spec.json_schema, spec.args_json_schema)
    name = schema["name"]
    _check_not_built_in(name)
    found = yield from tool_store.find_tool(name)
    now = now_us()
    tool = Tool(
        id=found.id if found is not None else new_id("tool"),
        name=name,
        tool_type=found.tool_type if found is not None else "custom",
        description=spec.description if spec.description is not None else schema.get("description"),
        source_type=spec.source_type,
        source_code=spec.source_code,
        json_schema=schema,
        args_json_schema=spec.args_json_schema,
        tags=tuple(dict.fromkeys(spec.tags)),
        return_char_limit=spec.return_char_limit,
        pip_requirements=spec.pip_requirements,
        npm_requirements=spec.npm_requirements,
        default_requires_approval=spec.default_requires_approval,
        enable_parallel_execution=spec.enable_parallel_execution,
        metadata=spec.metadata,
        allow_network=spec.allow_network,
        idempotent=spec.idempotent,
        created_us=found.created_us if found is not None else now,
        updated_us=now,
    )
    if found is None:
        yield from tool_store.create_tool(tool)
    else:
        agent_ids = yield from tool_store.replace_tool(tool)
        yield from recompile_agents(agent_ids, f"tool {tool.name} was edited")
    return tool


def change_tool(tool_id: str, change: ToolChange) -> Tx[Tool]:
    """A new source brings its own schema unless one is given; a renamed function renames the tool."""
    tool = yield from tool_store.tool_by_id(tool_id)
    fields = {key: value for key in change.__struct_fields__ if (value := getattr(change, key)) is not UNSET}
    changed = msgspec.structs.replace(tool, **fields, updated_us=now_us())
    if tool.name in BUILTIN_TOOLS and fields.keys() & {"source_code", "source_type", "json_schema"}:
        raise Invalid(f"{tool.name} is a built-in tool: its source and schema cannot be changed.")
    if fields.keys() & {"source_code", "source_type", "json_schema", "args_json_schema"}:
        given = None if change.json_schema is UNSET else change.json_schema
        schema = schema_of(changed.source_code or "", changed.source_type or "python", given, changed.args_json_schema)
        changed = msgspec.structs.replace(changed, json_schema=schema, name=schema["name"])
        if "description" not in fields:
            changed = msgspec.structs.replace(changed, description=schema.get("description"))
        if changed.name != tool.name:
            _check_not_built_in(changed.name)
    elif "description" in fields:
        schema = {**changed.json_schema, "description": changed.description or ""}
        changed = msgspec.structs.replace(changed, json_schema=schema)
    agent_ids = yield from tool_store.replace_tool(changed)
    yield from recompile_agents(agent_ids, f"tool {changed.name} was edited")
    return changed


def schema_of(
    source_code: str, source_type: str, json_schema: dict[str, Any] | None, args_json_schema: dict[str, Any] | None
) -> dict[str, Any]:
    """{name, description, parameters}: as given, or read from the Python source. Invalid when there is none to be had."""
    if json_schema is None:
        if source_type != "python":
            raise Invalid(f"json_schema: is needed for {source_type} tools; only Python's can be read from the source.")
        return schema_from_source(source_code, args_json_schema=args_json_schema)
    if args_json_schema is not None:
        json_schema = {**json_schema, "parameters": args_json_schema}
    return validate_json_schema(json_schema)


def _check_not_built_in(name: str) -> None:
    if name in BUILTIN_TOOLS:
        raise Invalid(f"{name} is the name of a built-in tool. Choose another function name.")


def delete_tool(tool_id: str) -> Tx[None]:
    tool = yield from tool_store.tool_by_id(tool_id)
    if tool.name in BUILTIN_TOOLS:
        raise Invalid(
            f"{tool.name} is a built-in tool and cannot be deleted. Detach it from the agents that should not have it."
        )
    agent_ids = yield from tool_store.delete_tool(tool_id, now_us())
    yield from recompile_agents(agent_ids, f"tool {tool.name} was deleted")


def attach_tool(agent_id: str, tool_id: str) -> Tx[None]:
    """A tool that asks for approval by default brings its rule along."""
    agent = yield from agent_store.agent_by_id(agent_id)
    tool = yield from tool_store.tool_by_id(tool_id)
    if not (yield from tool_store.attach_tool(agent_id, tool_id)):
        return
    changed = with_approval_rules(agent, [tool])
    yield from agent_store.replace_agent(msgspec.structs.replace(changed, updated_us=now_us()))
    yield from recompile_agents([agent_id], f"tool {tool.name} was attached", even_appending=changed is not agent)


def detach_tool(agent_id: str, tool_id: str) -> Tx[None]:
    """Nothing happens if it is not attached."""
    yield from agent_store.check_agent(agent_id)
    if (yield from tool_store.detach_tool(agent_id, tool_id)):
        yield from agent_store.bump_agent(agent_id, now_us())
        yield from recompile_agents([agent_id], "a tool was detached")


def set_approval(agent_id: str, tool_name: str, required: bool) -> Tx[None]:
    """Add or remove the rule that a person must approve calls of the tool."""
    agent = yield from agent_store.agent_by_id(agent_id)
    yield from _attached(agent_id, tool_name)
    rule = {"type": "requires_approval", "tool_name": tool_name, "prompt_template": None}
    others = [r for r in agent.tool_rules if (r["type"], r["tool_name"]) != ("requires_approval", tool_name)]
    has = len(others) < len(agent.tool_rules)
    if has == required:
        return
    rules = (*agent.tool_rules, rule) if required else tuple(others)
    yield from agent_store.replace_agent(msgspec.structs.replace(agent, tool_rules=rules, updated_us=now_us()))
    yield from recompile_agents([agent_id], f"the approval of {tool_name} was changed", even_appending=True)


def attached_tool(agent_id: str, tool_name: str) -> Tx[Tool]:
    yield from agent_store.check_agent(agent_id)
    return (yield from _attached(agent_id, tool_name))


def _attached(agent_id: str, tool_name: str) -> Tx[Tool]:
    tools: Sequence[Tool] = yield from tool_store.tools_of_agent(agent_id)
    for tool in tools:
        if tool.name == tool_name:
            return tool
    names = ", ".join(tool.name for tool in tools) or "none"
    raise NotFound(f"Agent {agent_id} has no tool named {tool_name!r}; its tools are: {names}")


def ranked(tools: Sequence[Tool], query: str | None) -> list[tuple[Tool, float]]:
    """(tool, share of the query's words it has), best first; a word in the name counts more than one in the description."""
    words = [word for word in (query or "").lower().split() if word]
    if not words:
        return [(tool, 1.0) for tool in tools]
    found: list[tuple[Tool, float]] = []
    for tool in tools:
        name, text = tool.name.lower(), f"{tool.description or ''} {' '.join(tool.tags)}".lower()
        score = sum(1.0 if word in name else 0.5 if word in text else 0.0 for word in words) / len(words)
        if score > 0:
            found.append((tool, score))
    return sorted(found, key=lambda item: -item[1])
