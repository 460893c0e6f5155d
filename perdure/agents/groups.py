"""Making and changing groups. What a manager needs to lead its group, a tool, is attached to it with the group."""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.core.errors import Invalid, NotFound
from perdure.core.groups import DEFAULT_BUFFER, DEFAULT_FREQUENCY, DEFAULT_TERMINATION, Group, ManagerType
from perdure.core.ids import new_id, now_us
from perdure.store import groups as group_store
from perdure.store.agents import bump_agent, check_agent
from perdure.store.base import Tx
from perdure.store.blocks import attach_block, block_by_id
from perdure.store.conversation_edits import delete_conversation
from perdure.store.groups import GroupView
from perdure.store.tools import attach_tool, detach_tool, find_tool
from perdure.tools.registry import GROUP_TOOLS

MOST_MEMBERS = 100


class Manager(Struct, frozen=True, kw_only=True):
    """How a group is led. None: the kind's default."""

    manager_type: ManagerType = "round_robin"
    manager_agent_id: str | None = None
    max_turns: int | None = None
    termination_token: str | None = None
    frequency: int | None = None
    max_buffer: int | None = None
    min_buffer: int | None = None


class GroupSpec(Struct, frozen=True, kw_only=True):
    """`own_members`: they go when their manager goes."""

    agent_ids: tuple[str, ...]
    description: str = ""
    manager: Manager = Manager()
    shared_block_ids: tuple[str, ...] = ()
    own_members: bool = False
    project_id: str | None = None
    hidden: bool | None = None


class GroupChange(Struct, frozen=True, kw_only=True):
    """UNSET: stays as it is."""

    agent_ids: tuple[str, ...] | UnsetType = UNSET
    description: str | UnsetType = UNSET
    manager: Manager | UnsetType = UNSET
    shared_block_ids: tuple[str, ...] | UnsetType = UNSET
    project_id: str | UnsetType | None = UNSET
    hidden: bool | UnsetType | None = UNSET


def create_group(spec: GroupSpec) -> Tx[GroupView]:
    """NotFound, Invalid or Conflict, with nothing stored."""
    now = now_us()
    group = Group(
        id=new_id("group"),
        agent_ids=spec.agent_ids,
        description=spec.description,
        shared_block_ids=spec.shared_block_ids,
        own_members=spec.own_members,
        project_id=spec.project_id,
        hidden=spec.hidden,
        created_us=now,
        updated_us=now,
        **_led_by(spec.manager),
    )
    yield from _check(group)
    yield from group_store.create_group(group)
    yield from _equip(group)
    return GroupView(group)


def update_group(group_id: str, change: GroupChange) -> Tx[GroupView]:
    before = yield from group_store.group_view(group_id)
    names = ("agent_ids", "description", "shared_block_ids", "project_id", "hidden")
    fields: dict[str, Any] = {name: value for name in names if (value := getattr(change, name)) is not UNSET}
    if change.manager is not UNSET:
        fields |= _led_by(change.manager)
        if change.manager.manager_agent_id is None:
            fields["manager_agent_id"] = before.group.manager_agent_id
    group = msgspec.structs.replace(before.group, **fields, updated_us=now_us())
    yield from _check(group)
    yield from _unequip(before.group)
    yield from group_store.change_group(group)
    yield from _equip(group)
    return (yield from group_store.group_view(group_id))


def delete_group(group_id: str) -> Tx[None]:
    view = yield from group_store.group_view(group_id)
    yield from _unequip(view.group)
    yield from group_store.delete_group(group_id, now_us())


def reset_messages(group_id: str) -> Tx[None]:
    """What was said in the group is found no more, and its members begin anew."""
    for conversation_id in (yield from group_store.take_conversations(group_id)):
        yield from delete_conversation(conversation_id, now_us())


def _led_by(manager: Manager) -> dict[str, Any]:
    """A group's fields for how it is led."""
    kind = manager.manager_type
    sleeps, voice = kind == "sleeptime", kind == "voice_sleeptime"
    return {
        "manager_type": kind,
        "manager_agent_id": manager.manager_agent_id,
        "max_turns": manager.max_turns,
        "termination_token": (manager.termination_token or DEFAULT_TERMINATION) if kind == "dynamic" else None,
        "frequency": (manager.frequency or DEFAULT_FREQUENCY) if sleeps else None,
        "min_buffer": (manager.min_buffer or DEFAULT_BUFFER[0]) if voice else None,
        "max_buffer": (manager.max_buffer or DEFAULT_BUFFER[1]) if voice else None,
    }


def _check(group: Group) -> Tx[None]:
    if group.manager_agent_id is None and group.manager_type != "round_robin":
        raise Invalid(f"manager_config.manager_agent_id: a {group.manager_type} group needs a manager.", status=422)
    if not group.agent_ids:
        raise Invalid("agent_ids: a group needs at least one member.", status=422)
    if len(group.agent_ids) > MOST_MEMBERS:
        raise Invalid(f"agent_ids: a group has at most {MOST_MEMBERS} members, not {len(group.agent_ids)}.", status=422)
    if len(set(group.agent_ids)) != len(group.agent_ids):
        raise Invalid("agent_ids: an agent is named twice.", status=422)
    if group.manager_agent_id in group.agent_ids:
        raise Invalid("agent_ids: the manager of a group is not one of its members; leave it out.", status=422)
    if group.min_buffer is not None and group.max_buffer is not None and group.min_buffer >= group.max_buffer:
        raise Invalid(
            "manager_config.min_message_buffer_length: must be less than max_message_buffer_length", status=422
        )
    for agent_id in _everyone(group):
        try:
            yield from check_agent(agent_id)
        except NotFound:
            raise NotFound(f"There is no agent {agent_id}") from None


def _everyone(group: Group) -> tuple[str, ...]:
    return group.agent_ids if group.manager_agent_id is None else (group.manager_agent_id, *group.agent_ids)


def _equip(group: Group) -> Tx[None]:
    """Give the manager its tool, and everyone the shared blocks."""
    now = now_us()
    for block_id in dict.fromkeys(group.shared_block_ids):
        block = yield from block_by_id(block_id)
        for agent_id in _everyone(group):
            if (yield from attach_block(agent_id, block)):
                yield from bump_agent(agent_id, now)
    name = GROUP_TOOLS.get(group.manager_type)
    if name is None or group.manager_agent_id is None:
        return
    tool = yield from find_tool(name)
    if tool is None or tool.tool_type == "custom":
        raise Invalid(f"The built-in tool {name} is hidden by a custom one of that name. Rename that tool.")
    yield from attach_tool(group.manager_agent_id, tool.id)


def _unequip(group: Group) -> Tx[None]:
    name = GROUP_TOOLS.get(group.manager_type)
    tool = (yield from find_tool(name)) if name is not None else None
    if tool is not None and group.manager_agent_id is not None:
        yield from detach_tool(group.manager_agent_id, tool.id)
