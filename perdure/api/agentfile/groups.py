"""The groups of an agent file, both ways. A group can be taken over if all its agents are in the file."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from perdure.agents.file_values import FileGroup
from perdure.agents.groups import GroupSpec
from perdure.api.agentfile.places import an_object, objects, optional_text, parsed, texts
from perdure.api.from_wire import manager_of
from perdure.api.wire.groups import CreateGroup
from perdure.core.groups import Group, ManagerType

# settings of how a group is led, which older files have beside its members
_LEADING = (
    "manager_type",
    "manager_agent_id",
    "max_turns",
    "termination_token",
    "sleeptime_agent_frequency",
    "max_message_buffer_length",
    "min_message_buffer_length",
)


def read_groups(
    file: dict[str, Any], agents: Iterable[str], blocks: Iterable[str], left_out: list[str]
) -> list[FileGroup]:
    """Those whose agents are all in the file; the others are told of in `left_out`."""
    there, known_blocks = set(agents), set(blocks)
    found: list[FileGroup] = []
    for place, item in objects(file, "groups", ""):
        config = an_object(item.get("manager_config") or _beside(item), f"{place}.manager_config")
        kind = optional_text(config, "manager_type", f"{place}.manager_config") or "round_robin"
        if kind not in get_args(ManagerType):
            left_out.append(f"{place}: left out, as this server knows no {kind} groups")
            continue
        body = parsed(
            CreateGroup,
            {
                "agent_ids": texts(item, "agent_ids", place),
                "description": item.get("description") or "",
                "manager_config": {**config, "manager_type": kind},
                "shared_block_ids": item.get("shared_block_ids"),
                "hidden": item.get("hidden"),
            },
            place,
        )
        manager = manager_of(body.manager_config)
        everyone = [*body.agent_ids, *([manager.manager_agent_id] if manager.manager_agent_id else [])]
        if missing := [agent for agent in everyone if agent not in there]:
            left_out.append(f"{place}: left out, as its agents {', '.join(missing)} are not in the file")
            continue
        shared = [block for block in body.shared_block_ids or () if block in known_blocks]
        if len(shared) < len(body.shared_block_ids or ()):
            left_out.append(f"{place}.shared_block_ids: some of the blocks are not in the file and were left out")
        spec = GroupSpec(
            agent_ids=tuple(body.agent_ids),
            description=body.description,
            manager=manager,
            shared_block_ids=tuple(shared),
            hidden=body.hidden,
        )
        found.append(FileGroup(where=place, id=optional_text(item, "id", place) or place, spec=spec))
    return found


def _beside(item: dict[str, Any]) -> dict[str, Any]:
    return {key: item[key] for key in _LEADING if item.get(key) is not None}


def file_group(group: Group, file_id: str, agents: Mapping[str, str], blocks: Mapping[str, str]) -> dict[str, Any]:
    """A group as a file has it: its agents and blocks under the file's ids."""
    led: dict[str, Any] = {
        "manager_type": group.manager_type,
        "manager_agent_id": agents[group.manager_agent_id] if group.manager_agent_id is not None else None,
        "max_turns": group.max_turns,
        "termination_token": group.termination_token,
        "sleeptime_agent_frequency": group.frequency,
        "max_message_buffer_length": group.max_buffer,
        "min_message_buffer_length": group.min_buffer,
    }
    return {
        "id": file_id,
        "agent_ids": [agents[agent_id] for agent_id in group.agent_ids],
        "description": group.description,
        "manager_config": {key: value for key, value in led.items() if value is not None},
        "project_id": None,
        "shared_block_ids": [blocks[block_id] for block_id in group.shared_block_ids if block_id in blocks],
        "hidden": group.hidden,
    }
