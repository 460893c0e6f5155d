"""An agent file's JSON, in either format, as values. Invalid (400) names the place that is wrong.

The current format is one object with lists of agents, blocks, tools and more, which refer to each other by ids of the file;
the legacy one is a single agent with everything inside it (`legacy.py`).
"""

import json
from typing import Any, cast

import msgspec

from perdure.agents.file_values import AgentFile, FileAgent, FileGroup, FileTool
from perdure.agents.spec import BlockSpec
from perdure.api.agentfile.groups import read_groups
from perdure.api.agentfile.legacy import is_legacy, modern
from perdure.api.agentfile.messages import MessageReader
from perdure.api.agentfile.places import an_object, objects, optional_text, parsed, text, texts, within, wrong
from perdure.api.from_wire import agent_spec, block_spec, tool_spec
from perdure.api.wire.agents import CreateAgent
from perdure.api.wire.blocks import CreateBlock
from perdure.api.wire.tools import CreateTool
from perdure.core.errors import Invalid
from perdure.core.messages import Message

OURS = "perdure_version"
# what else a file may hold, and why it is left out
_NO_PLACE = {
    "files": "files",
    "sources": "folders",
    "mcp_servers": "MCP servers",
    "skills": "skills",
}
_MADE_HERE = ("custom",)


def read_file(raw: bytes) -> AgentFile:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The agent file is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise Invalid(f"The agent file must hold a JSON object, not {type(value).__name__}")
    file = cast(dict[str, Any], value)
    if is_legacy(file):
        file = modern(file)
    if "agents" not in file:
        raise Invalid(
            "The agent file is of no known format: it has neither `agents` (current) nor `core_memory` (legacy)"
        )
    return _file(file)


def _file(file: dict[str, Any]) -> AgentFile:
    left_out: list[str] = []
    blocks = {text(item, "id", place): _block(item, place) for place, item in objects(file, "blocks", "")}
    tools = {text(item, "id", place): _tool(item, place) for place, item in objects(file, "tools", "")}
    metadata = an_object(file.get("metadata") or {}, "metadata")
    agents = tuple(
        _agent(item, place, packs_users=OURS not in metadata, left_out=left_out)
        for place, item in objects(file, "agents", "")
    )
    if not agents:
        raise wrong("agents", "there is no agent in it")
    for agent in agents:
        _check_refers(agent.where, "block_ids", agent.block_ids, blocks)
        _check_refers(agent.where, "tool_ids", agent.tool_ids, tools)
    for key, what in _NO_PLACE.items():
        if items := [item for _, item in objects(file, key, "")]:
            left_out.append(f"{key}: {_named(items)} left out, as {what} cannot be taken from a file yet")
    groups = read_groups(file, [agent.id for agent in agents], blocks, left_out)
    _note_missing_groups(file, groups, agents, left_out)
    return AgentFile(agents=agents, blocks=blocks, tools=tools, groups=tuple(groups), left_out=tuple(left_out))


def _named(items: list[dict[str, Any]]) -> str:
    """How many there are, and their names where they have any."""
    names = [
        str(name) for item in items if (name := item.get("name") or item.get("server_name") or item.get("file_name"))
    ]
    return f"{len(items)} ({', '.join(names)})" if names else str(len(items))


def _note_missing_groups(
    file: dict[str, Any], groups: list[FileGroup], agents: tuple[FileAgent, ...], left_out: list[str]
) -> None:
    """Agents that belong to groups which are not in the file, and those whose sleeptime agent is not."""
    known = {text(item, "id", place) for place, item in objects(file, "groups", "") if item.get("id")}
    for place, item in objects(file, "agents", ""):
        named = item.get("group_ids") or []
        if any(group not in known for group in named):
            left_out.append(f"{place}.group_ids: left out, as its groups are not in the file")
    resting = {
        group.spec.manager.manager_agent_id for group in groups if "sleeptime" in group.spec.manager.manager_type
    }
    for agent in agents:
        if agent.spec.enable_sleeptime and agent.id not in resting:
            left_out.append(
                f"{agent.where}.enable_sleeptime: its sleeptime agent is not in the file; update the agent with "
                "enable_sleeptime=true to make one"
            )


def _check_refers(where: str, key: str, ids: tuple[str, ...], there: dict[str, Any]) -> None:
    for at, one in enumerate(ids):
        if one not in there:
            raise wrong(f"{where}.{key}[{at}]", f"{one!r} is not in the file's list of {key.removesuffix('_ids')}s")


def _block(item: dict[str, Any], place: str) -> BlockSpec:
    return block_spec(parsed(CreateBlock, item, place))


def _tool(item: dict[str, Any], place: str) -> FileTool:
    """Only Python and TypeScript source can be made into a tool; every other kind is looked up by its name."""
    schema = an_object(item.get("json_schema") or {}, f"{place}.json_schema")
    name = optional_text(item, "name", place) or optional_text(schema, "name", f"{place}.json_schema")
    if name is None:
        raise wrong(f"{place}.name", "is missing")
    kind = optional_text(item, "tool_type", place) or "custom"
    if kind not in _MADE_HERE or not item.get("source_code"):
        return FileTool(name=name, tool_type=kind)
    given = {key: value for key, value in item.items() if value is not None and key != "allow_network"}
    spec = tool_spec(parsed(CreateTool, given, place))
    return FileTool(name=name, tool_type=kind, spec=spec)


def _agent(item: dict[str, Any], where: str, *, packs_users: bool, left_out: list[str]) -> FileAgent:
    file_id = text(item, "id", where)
    outer = {key: value for key, value in item.items() if key not in ("block_ids", "tool_ids", "memory_blocks")}
    body = parsed(CreateAgent, {**outer, "memory_blocks": item.get("memory_blocks") or None}, where)
    with within(where):
        spec = agent_spec(body)
    window = spec.context_window_limit
    spec = msgspec.structs.replace(spec, context_window_limit=None, embedding=spec.embedding or _embedding(item))
    messages = _messages(item, where, packs_users=packs_users, left_out=left_out)
    for key, what in (("files_agents", "open files"), ("source_ids", "its folders")):
        if item.get(key):
            left_out.append(f"{where}.{key}: left out, as {what} cannot be taken from a file yet")
    if item.get("initial_message_sequence"):
        left_out.append(f"{where}.initial_message_sequence: left out; the messages in the file are its history")
    return FileAgent(
        where=where,
        id=file_id,
        spec=spec,
        context_window=window,
        block_ids=tuple(dict.fromkeys(texts(item, "block_ids", where))),
        tool_ids=tuple(dict.fromkeys(texts(item, "tool_ids", where))),
        messages=messages,
        in_context=tuple(dict.fromkeys(texts(item, "in_context_message_ids", where))),
    )


def _embedding(item: dict[str, Any]) -> str | None:
    config = item.get("embedding_config")
    found = cast(dict[str, Any], config).get("handle") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None


def _messages(item: dict[str, Any], where: str, *, packs_users: bool, left_out: list[str]) -> tuple[Message, ...]:
    reader = MessageReader(packs_users=packs_users)
    found: list[Message] = []
    seen: set[str] = set()
    for at, (place, message) in enumerate(objects(item, "messages", where)):
        message_id = optional_text(message, "id", place) or f"message-{at}"
        if message_id in seen:
            raise wrong(f"{place}.id", f"{message_id!r} is the id of an earlier message too")
        seen.add(message_id)
        found.append(reader.message(message, message_id, place))
    if reader.lost_images:
        left_out.append(
            f"{where}.messages: {reader.lost_images} images are not in the file; a line of text stands for each"
        )
    return tuple(found)
