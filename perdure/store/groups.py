"""Groups of agents and how far they have come. A change of a group raises the revision of its manager, whose runs go by it."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from perdure.core.errors import Conflict, NotFound, StaleGroup
from perdure.core.groups import Group, Progress
from perdure.core.messages import Message
from perdure.store.base import Built, Many, Query, Tx
from perdure.store.listing import Filters, Page, Source, in_list, list_rows

_encode = msgspec.json.Encoder().encode
_group = msgspec.json.Decoder(Group).decode
_message = msgspec.json.Decoder(Message).decode

_GROUPS = Source("g.body, g.turns, g.last_message_id", "groups", "g")


class GroupView(Struct, frozen=True):
    group: Group
    progress: Progress = Progress()


class GroupFilter(Struct, frozen=True, kw_only=True):
    """None: not filtered by. `agent_id`: the groups it is a member of or manages."""

    manager_type: str | None = None
    project_id: str | None = None
    with_hidden: bool = False
    agent_id: str | None = None


class GroupTurn(Struct, frozen=True):
    """A turn of a manager to be counted: `seen` were counted before; `last_message_id`: what the members are now shown, who
    were shown everything of the agent up to position `newest`."""

    group_id: str
    agent_id: str
    seen: int
    last_message_id: str | None = None
    newest: int = 0


def create_group(group: Group) -> Tx[None]:
    """Conflict if its manager manages one already."""
    yield from _check_manager(group)
    yield Query("insert_group", _params(group))
    yield from _set_members(group)
    yield from _notice([group.manager_agent_id], group.updated_us)


def change_group(group: Group) -> Tx[None]:
    before = yield from group_view(group.id)
    yield from _check_manager(group)
    yield Query("change_group", _params(group))
    yield from _set_members(group)
    yield from _notice([before.group.manager_agent_id, group.manager_agent_id], group.updated_us)


def delete_group(group_id: str, now: int) -> Tx[None]:
    """Its agents stay, and the conversations they had in it stay theirs."""
    view = yield from group_view(group_id)
    yield Query("delete_group", {"id": group_id})
    yield Query("delete_group_agents", {"group_id": group_id})
    yield Query("delete_group_conversations", {"group_id": group_id})
    yield from _notice([view.group.manager_agent_id], now)


def leave_groups(agent_id: str, now: int) -> Tx[None]:
    """An agent that goes leaves its groups."""
    for row in (yield Query("groups_with_agent", {"agent_id": agent_id})):
        group = _group(row[0])
        left = tuple(member for member in group.agent_ids if member != agent_id)
        yield from change_group(msgspec.structs.replace(group, agent_ids=left, updated_us=now))
    yield Query("delete_group_conversations_of_agent", {"id": agent_id})


def group_view(group_id: str) -> Tx[GroupView]:
    rows = yield Query("group_by_id", {"id": group_id})
    if not rows:
        raise NotFound(f"Group {group_id} not found")
    return GroupView(_group(rows[0][0]), Progress(rows[0][1], rows[0][2]))


def group_of_manager(agent_id: str) -> Tx[Group | None]:
    rows = yield Query("group_of_manager", {"agent_id": agent_id})
    return _group(rows[0][0]) if rows else None


def groups_of_managers(agent_ids: Sequence[str]) -> Tx[dict[str, Group]]:
    marks, params = in_list("agent", agent_ids)
    rows = yield Built(f"SELECT manager_agent_id, body FROM groups WHERE manager_agent_id IN ({marks})", params)
    return {row[0]: _group(row[1]) for row in rows}


def list_groups(wanted: GroupFilter, page: Page) -> Tx[list[GroupView]]:
    filters = Filters()
    if wanted.manager_type is not None:
        filters.add("g.manager_type = :manager_type", manager_type=wanted.manager_type)
    if wanted.project_id is not None:
        filters.add("g.project_id = :project_id", project_id=wanted.project_id)
    if not wanted.with_hidden:
        filters.add("g.hidden = 0")
    if wanted.agent_id is not None:
        filters.add(
            "(g.manager_agent_id = :of_agent OR g.id IN (SELECT group_id FROM group_agents WHERE agent_id = :of_agent))",
            of_agent=wanted.agent_id,
        )
    rows = yield from list_rows(_GROUPS, filters, page, what="Group")
    return [GroupView(_group(row[0]), Progress(row[1], row[2])) for row in rows]


def count_groups() -> Tx[int]:
    rows = yield Query("count_groups")
    return rows[0][0]


def members(group_id: str) -> Tx[dict[str, str]]:
    """Names of the members by id, in order."""
    rows = yield Query("group_members", {"group_id": group_id})
    return {row[0]: row[1] for row in rows}


def progress(group_id: str) -> Tx[Progress | None]:
    """None: the group is gone."""
    rows = yield Query("group_progress", {"id": group_id})
    return Progress(rows[0][0], rows[0][1]) if rows else None


def newest_position(agent_id: str) -> Tx[int]:
    """Where the newest message of the agent stands; 0: it has none."""
    rows = yield Query("newest_message_of_agent", {"agent_id": agent_id})
    return rows[0][0]


def count_turn(turn: GroupTurn) -> Tx[None]:
    """StaleGroup if another turn was counted since, a message came that the members were not shown, or the group is gone.

    To be done before the turn's own last messages are stored.
    """
    if turn.last_message_id is not None and (yield from newest_position(turn.agent_id)) != turn.newest:
        raise StaleGroup(f"Agent {turn.agent_id} was told something meanwhile.")
    counted = yield Query(
        "count_group_turn", {"id": turn.group_id, "seen": turn.seen, "last_message_id": turn.last_message_id}
    )
    if not counted:
        raise StaleGroup(f"Group {turn.group_id} went on meanwhile.")


def conversation_in(group_id: str, agent_id: str) -> Tx[str | None]:
    """The conversation a member has in the group, if it has spoken there before."""
    rows = yield Query("group_conversation", {"group_id": group_id, "agent_id": agent_id})
    return rows[0][0] if rows else None


def add_conversation(group_id: str, agent_id: str, conversation_id: str) -> Tx[None]:
    yield Query(
        "add_group_conversation", {"conversation_id": conversation_id, "group_id": group_id, "agent_id": agent_id}
    )


def group_messages(group_id: str, page: Page) -> Tx[list[Message]]:
    """The messages of the group's conversations; the cursors are message ids."""
    yield from group_view(group_id)
    filters = Filters()
    filters.add(
        "m.conversation_id IN (SELECT g.conversation_id FROM group_conversations g JOIN conversations c "
        "ON c.id = g.conversation_id WHERE g.group_id = :group_id AND c.deleted_us IS NULL)",
        group_id=group_id,
    )
    source = Source("m.body", "messages", "m")
    rows = yield from list_rows(source, filters, page, what="Message")
    return [_message(row[0]) for row in rows]


def conversations_of(group_id: str) -> Tx[list[str]]:
    yield from group_view(group_id)
    rows = yield Query("group_conversations", {"group_id": group_id})
    return [row[0] for row in rows]


def take_conversations(group_id: str) -> Tx[list[str]]:
    """The conversations that were had in the group; its members begin new ones."""
    found = yield from conversations_of(group_id)
    yield Query("delete_group_conversations", {"group_id": group_id})
    return found


def _params(group: Group) -> dict[str, object]:
    return {
        "id": group.id,
        "manager_type": group.manager_type,
        "manager_agent_id": group.manager_agent_id,
        "created_us": group.created_us,
        "updated_us": group.updated_us,
        "project_id": group.project_id,
        "hidden": int(bool(group.hidden)),
        "body": _encode(group),
    }


def _check_manager(group: Group) -> Tx[None]:
    if group.manager_agent_id is None:
        return
    other = yield from group_of_manager(group.manager_agent_id)
    if other is not None and other.id != group.id:
        raise Conflict(
            f"manager_agent_id: agent {group.manager_agent_id} manages group {other.id} already. Delete that group first."
        )


def _set_members(group: Group) -> Tx[None]:
    yield Query("delete_group_agents", {"group_id": group.id})
    rows = [{"group_id": group.id, "agent_id": id, "position": at} for at, id in enumerate(group.agent_ids)]
    if rows:
        yield Many("add_group_agent", rows)


def _notice(agent_ids: Iterable[str | None], now: int) -> Tx[None]:
    for agent_id in {agent_id for agent_id in agent_ids if agent_id is not None}:
        yield Query("bump_agent", {"id": agent_id, "now": now})
