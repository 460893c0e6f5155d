"""The legacy format, one agent with its blocks and tools inside it: turned into the current format, and written from it.

Its context is told by the places of the messages in the list, as they have no ids.
"""

from typing import Any, cast

from perdure.api.agentfile.places import an_object, objects, text, wrong

# keys of the legacy agent that mean the same in the current format
_SAME = (
    "agent_type",
    "description",
    "embedding_config",
    "llm_config",
    "message_buffer_autoclear",
    "name",
    "system",
    "tool_rules",
    "timezone",
    "model_settings",
    "compaction_settings",
    "response_format",
    "enable_sleeptime",
    "max_files_open",
    "per_file_view_window_char_limit",
    "hidden",
    "memory_rendering",
    "thinking_retention",
    "model",
    "embedding",
)


def is_legacy(file: dict[str, Any]) -> bool:
    return "agents" not in file and "core_memory" in file


def modern(file: dict[str, Any]) -> dict[str, Any]:
    """A legacy file in the current format."""
    blocks = [_metadata_named(item, f"block-{at}") for at, (_, item) in enumerate(objects(file, "core_memory", ""))]
    tools = [{**item, "id": f"tool-{at}"} for at, (_, item) in enumerate(objects(file, "tools", ""))]
    messages = [{**item, "id": f"message-{at}"} for at, (_, item) in enumerate(objects(file, "messages", ""))]
    agent: dict[str, Any] = {key: file[key] for key in _SAME if key in file}
    agent |= {
        "id": "agent-0",
        "metadata": file.get("metadata_"),
        "tags": [text(item, "tag", place) for place, item in objects(file, "tags", "")],
        "secrets": {
            text(item, "key", place): item.get("value") or ""
            for place, item in objects(file, "tool_exec_environment_variables", "")
        },
        "include_base_tools": False,
        "include_base_tool_rules": False,
        "block_ids": [block["id"] for block in blocks],
        "tool_ids": [tool["id"] for tool in tools],
        "messages": messages,
        "in_context_message_ids": [f"message-{at}" for at in _indices(file, len(messages))],
        "group_ids": [file["multi_agent_group"]] if file.get("multi_agent_group") else [],
    }
    return {"agents": [agent], "blocks": blocks, "tools": tools, "metadata": file.get("file_metadata") or {}}


def _metadata_named(item: dict[str, Any], block_id: str) -> dict[str, Any]:
    return {**item, "id": block_id, "metadata": item.get("metadata_") or item.get("metadata")}


def _indices(file: dict[str, Any], count: int) -> list[int]:
    given = file.get("in_context_message_indices") or []
    if not isinstance(given, list):
        raise wrong("in_context_message_indices", "must be a list of places in `messages`")
    found: list[int] = []
    for at, index in enumerate(cast(list[object], given)):
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            raise wrong(f"in_context_message_indices[{at}]", f"{index!r} is not the place of one of {count} messages")
        found.append(index)
    return found


def legacy(file: dict[str, Any], *, version: str, created_at: str | None, updated_at: str | None) -> dict[str, Any]:
    """A file of the current format with one agent, in the legacy one."""
    agent = an_object(file["agents"][0], "agents[0]")
    ids = [message["id"] for message in agent["messages"]]
    times = {"created_at": created_at, "updated_at": updated_at}
    return {
        **{key: agent.get(key) for key in _SAME},
        "version": version,
        "file_metadata": file["metadata"],
        "metadata_": agent["metadata"],
        "core_memory": [_without_id(block, metadata="metadata") | times for block in file["blocks"]],
        "tools": [_without_id(tool) | times for tool in file["tools"]],
        "messages": [_without_id(message) | {"updated_at": message["created_at"]} for message in agent["messages"]],
        "in_context_message_indices": [ids.index(key) for key in agent["in_context_message_ids"]],
        "tags": [{"tag": tag} for tag in agent["tags"]],
        "tool_exec_environment_variables": [
            {"key": key, "value": value, "description": None, **times} for key, value in agent["secrets"].items()
        ],
        "multi_agent_group": None,
        **times,
    }


def _without_id(item: dict[str, Any], *, metadata: str | None = None) -> dict[str, Any]:
    found = {key: value for key, value in item.items() if key not in ("id", "agent_id", metadata)}
    return found if metadata is None else {**found, "metadata_": item.get(metadata)}
