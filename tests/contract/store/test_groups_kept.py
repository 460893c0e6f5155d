"""Groups and their progress, on every store."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle
from perdure.core.errors import Conflict, NotFound, StaleGroup
from perdure.core.groups import Group, Progress
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.store import agents, groups
from perdure.store.base import Store
from perdure.store.groups import GroupFilter, GroupTurn
from perdure.store.listing import Page
from perdure.store.messages import insert_messages


@pytest.fixture
def new_agent(store: Store) -> Callable[..., Any]:
    async def make(name: str = "Ann") -> str:
        now = now_us()
        agent = Agent(id=new_id("agent"), name=name, system="x", model="m", created_us=now, updated_us=now)
        bundle = AgentBundle(agent=agent)
        system = first_system_message(bundle)
        await store.write(lambda: agents.create_agent(bundle, new_blocks=(), system_message=system))
        return agent.id

    return make


def group(manager: str | None, *members: str, **more: Any) -> Group:
    now = now_us()
    fields = {"manager_type": "supervisor", "created_us": now, "updated_us": now, **more}
    return Group(id=new_id("group"), agent_ids=members, manager_agent_id=manager, **fields)  # type: ignore[arg-type]


async def revision(store: Store, agent_id: str) -> int:
    return (await store.read(lambda: agents.agent_by_id(agent_id))).revision


async def test_a_group_is_part_of_its_managers_bundle(store: Store, new_agent: Callable[..., Any]) -> None:
    boss, one, two = await new_agent(), await new_agent("One"), await new_agent("Two")
    made = group(boss, two, one)
    before = await revision(store, boss)
    await store.write(lambda: groups.create_group(made))
    assert (await store.read(lambda: agents.agent_bundle(boss))).group == made
    assert (await store.read(lambda: agents.agent_bundle(one))).group is None
    assert await revision(store, boss) == before + 1
    assert await store.read(lambda: groups.members(made.id)) == {two: "Two", one: "One"}
    changed = msgspec.structs.replace(made, agent_ids=(one,), description="fewer")
    await store.write(lambda: groups.change_group(changed))
    assert (await store.read(lambda: groups.group_view(made.id))).group == changed
    assert await revision(store, boss) == before + 2
    await store.write(lambda: groups.delete_group(made.id, now_us()))
    assert (await store.read(lambda: agents.agent_bundle(boss))).group is None
    assert await revision(store, boss) == before + 3
    with pytest.raises(NotFound, match=made.id):
        await store.read(lambda: groups.group_view(made.id))


async def test_an_agent_manages_one_group_at_most(store: Store, new_agent: Callable[..., Any]) -> None:
    boss, one = await new_agent(), await new_agent()
    await store.write(lambda: groups.create_group(group(boss, one)))
    with pytest.raises(Conflict, match="manages group"):
        await store.write(lambda: groups.create_group(group(boss, one)))
    for _ in range(2):
        await store.write(lambda: groups.create_group(group(None, one, manager_type="round_robin")))


async def test_groups_are_listed_by_kind_and_agent(store: Store, new_agent: Callable[..., Any]) -> None:
    boss, one, two = await new_agent(), await new_agent(), await new_agent()
    led, free = group(boss, one), group(None, one, two, manager_type="round_robin", hidden=True)
    for made in (led, free):
        await store.write(lambda made=made: groups.create_group(made))

    async def found(**wanted: Any) -> list[str]:
        views = await store.scan(lambda: groups.list_groups(GroupFilter(**wanted), Page()))
        return [view.group.id for view in views]

    assert await found() == [led.id]
    assert await found(with_hidden=True) == [free.id, led.id]
    assert await found(manager_type="round_robin", with_hidden=True) == [free.id]
    assert await found(agent_id=boss) == [led.id]
    assert await found(agent_id=two, with_hidden=True) == [free.id]
    assert await store.read(groups.count_groups) == 1


async def test_a_deleted_agent_leaves_its_groups(store: Store, new_agent: Callable[..., Any]) -> None:
    boss, one, two = await new_agent(), await new_agent(), await new_agent()
    made = group(boss, one, two)
    await store.write(lambda: groups.create_group(made))
    await store.write(lambda: agents.delete_agent(one))
    assert (await store.read(lambda: groups.group_view(made.id))).group.agent_ids == (two,)
    await store.write(lambda: agents.delete_agent(boss))
    assert await store.read(groups.count_groups) == 0
    assert await store.read(agents.count_agents) == 1


async def test_a_turn_is_counted_once(store: Store, new_agent: Callable[..., Any]) -> None:
    boss, one = await new_agent(), await new_agent()
    made = group(boss, one, manager_type="sleeptime")
    await store.write(lambda: groups.create_group(made))
    await store.write(lambda: groups.count_turn(GroupTurn(made.id, boss, 0)))
    with pytest.raises(StaleGroup):
        await store.write(lambda: groups.count_turn(GroupTurn(made.id, boss, 0)))
    assert await store.read(lambda: groups.progress(made.id)) == Progress(1, None)
    newest = await store.read(lambda: groups.newest_position(boss))
    await store.write(lambda: groups.count_turn(GroupTurn(made.id, boss, 1, "message-x", newest)))
    assert await store.read(lambda: groups.progress(made.id)) == Progress(2, "message-x")
    await store.write(lambda: groups.count_turn(GroupTurn(made.id, boss, 2)))
    assert await store.read(lambda: groups.progress(made.id)) == Progress(3, "message-x")


async def test_what_came_meanwhile_is_not_passed_over(store: Store, new_agent: Callable[..., Any]) -> None:
    boss, one = await new_agent(), await new_agent()
    made = group(boss, one, manager_type="sleeptime")
    await store.write(lambda: groups.create_group(made))
    newest = await store.read(lambda: groups.newest_position(boss))
    late = Message(
        id=new_id("message"),
        role="user",
        created_us=now_us(),
        content=(TextPart("late"),),
        agent_id=boss,
        conversation_id=boss,
    )
    await store.write(lambda: insert_messages((late,)))
    with pytest.raises(StaleGroup):
        await store.write(lambda: groups.count_turn(GroupTurn(made.id, boss, 0, "message-x", newest)))
    assert await store.read(lambda: groups.progress(made.id)) == Progress(0, None)
