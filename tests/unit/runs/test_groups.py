"""Groups led by their manager's runs, and sleeptime agents, on a real store with a played model each."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.create import create_agent
from perdure.agents.groups import GroupSpec, Manager, create_group
from perdure.agents.spec import AgentChange, AgentSpec, BlockSpec
from perdure.agents.update import update_agent
from perdure.core.errors import Conflict
from perdure.core.events import UsageReported
from perdure.core.groups import Group
from perdure.core.messages import ToolCall
from perdure.core.runs import Usage
from perdure.store import agents, groups
from perdure.store.conversation_edits import delete_conversation
from perdure.store.listing import Page
from perdure.store.run_queue import queue_length
from perdure.store.sqlite import SqliteStore
from tests.unit.runs.test_peers import World, eventually

ALL = "send_message_to_all_agents_in_group"
NEXT = "choose_next_participant"


class Groups(World):
    async def group(self, kind: Any, manager: str, *names: str, **more: Any) -> Group:
        spec = GroupSpec(
            agent_ids=tuple(self.ids[name] for name in names),
            manager=Manager(manager_type=kind, manager_agent_id=self.ids[manager], **more),
        )
        return (await self.store.write(lambda: create_group(spec))).group

    def all(self, text: str, id: str = "call_1") -> ToolCall:
        return ToolCall(id, ALL, json.dumps({"message": text}))

    def next(self, name: str, text: str | None = None, id: str = "call_1") -> ToolCall:
        args = {"next_speaker_agent_id": self.ids[name], **({"message": text} if text is not None else {})}
        return ToolCall(id, NEXT, json.dumps(args))

    def shown(self, *said: tuple[str, str]) -> str:
        return str([{"agent_id": self.ids[name], "response": [text]} for name, text in said])

    def heard(self, name: str) -> list[str]:
        """What the agent was told, turn by turn, without the first line."""
        thread = self.registry.played[f"test/{name}"].prompts[-1].messages
        return [message.text.partition("\n\n")[2] for message in thread if message.role == "system"]

    async def sleeper(self, name: str, **more: Any) -> tuple[Any, Group]:
        """An agent with a sleeptime agent; they share a model, whose prompts tell them apart."""
        block = BlockSpec(label="human", value="Ada")
        model = await self.agent(name, enable_sleeptime=True, memory_blocks=(block,), **more)
        group = (await self.store.read(lambda: agents.agent_bundle(self.ids[name]))).group
        assert group is not None
        self.ids[f"{name}-sleeptime"] = group.agent_ids[0]
        return model, group

    async def rest_ids(self, name: str, text: str) -> tuple[str, ...] | None:
        (usage,) = [event for event in await self.send(name, text) if isinstance(event, UsageReported)]
        return usage.run_ids

    async def change(self, group: Group, **fields: Any) -> None:
        await self.store.write(lambda: groups.change_group(msgspec.structs.replace(group, **fields)))

    async def transcript(self, name: str) -> list[str]:
        said = [line for line in await self.said_in(f"{name}-sleeptime") if line.startswith("user:")]
        return [line.split(" ", 1)[1] for line in said[-1].split("<transcript>\n")[1].splitlines()[:-1]]


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[Groups]:
    await ensure_builtin_tools(store)
    made = Groups(store)
    await made.runner.start()
    yield made
    for model in made.registry.played.values():
        model.gate.set()
    await made.runner.stop()


async def test_a_supervisor_asks_all_members_together(world: Groups) -> None:
    for name in ("Sue", "Bob", "Cid"):
        await world.agent(name)
    group = await world.group("supervisor", "Sue", "Bob", "Cid")
    for name in ("Bob", "Cid"):
        world.registry.played[f"test/{name}"].answers = [f"{name} 1", f"{name} 2"]
    world.registry.played["test/Sue"].answers = [world.all("Ready?"), world.all("Still?", "call_2"), "done"]
    assert await world.returned("Sue") == [
        ("success", world.shown(("Bob", "Bob 1"), ("Cid", "Cid 1"))),
        ("success", world.shown(("Bob", "Bob 2"), ("Cid", "Cid 2"))),
    ]
    found = await world.store.scan(lambda: groups.group_messages(group.id, Page(descending=False, order_by="pos")))
    assert len({message.conversation_id for message in found}) == 2
    assert await world.said_in("Bob") == []


async def test_members_take_turns_and_hear_those_before_them(world: Groups) -> None:
    for name in ("Sue", "Bob", "Cid"):
        await world.agent(name)
    await world.group("round_robin", "Sue", "Bob", "Cid", max_turns=3)
    world.registry.played["test/Bob"].answers = ["I begin", "I end"]
    world.registry.played["test/Cid"].answers = ["I follow"]
    world.registry.played["test/Sue"].answers = [world.all("Talk"), "done"]
    assert await world.returned("Sue") == [
        ("success", world.shown(("Bob", "I begin"), ("Cid", "I follow"), ("Bob", "I end")))
    ]
    assert world.heard("Cid") == ["Sue: Talk\n\nBob: I begin"]
    assert world.heard("Bob") == ["Sue: Talk", "Cid: I follow"]


async def test_a_dynamic_manager_chooses_who_speaks_until_it_is_done(world: Groups) -> None:
    for name in ("Sue", "Bob", "Cid", "Dan"):
        await world.agent(name)
    await world.group("dynamic", "Sue", "Bob", "Cid", termination_token="OVER")
    world.registry.played["test/Bob"].answers = ["one"]
    world.registry.played["test/Cid"].answers = ["two OVER"]
    world.registry.played["test/Sue"].answers = [
        world.next("Bob", id="0"),
        world.next("Dan", "Hi", id="1"),
        world.next("Bob", "Count", id="2"),
        world.next("Cid", id="3"),
        world.next("Bob", id="4"),
    ]
    silent, stranger, one, two, after = await world.returned("Sue")
    assert silent[0] == "error" and "begin by telling the group" in silent[1]
    assert stranger[0] == "error" and "is no member of your group" in stranger[1]
    assert one == ("success", world.shown(("Bob", "one"))[1:-1])
    assert two == ("success", world.shown(("Cid", "two OVER"))[1:-1])
    assert after == ("error", "The discussion is over: Cid said OVER. Answer with what was said.")
    assert world.heard("Cid") == ["Sue: Count\n\nBob: one"]


async def test_a_dynamic_discussion_has_only_so_many_turns(world: Groups) -> None:
    for name in ("Sue", "Bob"):
        await world.agent(name)
    await world.group("dynamic", "Sue", "Bob", max_turns=2)
    world.registry.played["test/Sue"].answers = [world.next("Bob", "Go", id=str(at)) for at in range(3)]
    first, second, third = await world.returned("Sue")
    assert (first[0], second[0]) == ("success", "success")
    assert third == ("error", "The discussion is over: all 2 turns are taken. Answer with what was said.")


async def test_a_deleted_group_cannot_be_spoken_to(world: Groups) -> None:
    for name in ("Sue", "Bob"):
        await world.agent(name)
    group = await world.group("supervisor", "Sue", "Bob")
    await world.store.write(lambda: groups.delete_group(group.id, 1))  # its tool stays where somebody attached it
    world.registry.played["test/Sue"].answers = [world.all("Anybody?")]
    assert await world.returned("Sue") == [("error", "You lead no group that could be spoken to.")]


async def test_a_member_whose_group_conversation_was_deleted_begins_a_new_one(world: Groups) -> None:
    for name in ("Sue", "Bob"):
        await world.agent(name)
    group = await world.group("supervisor", "Sue", "Bob")
    world.registry.played["test/Sue"].answers = [world.all("One"), "done", world.all("Two", "call_2"), "done"]
    await world.send("Sue")
    (first,) = await world.store.read(lambda: groups.conversations_of(group.id))
    await world.store.write(lambda: delete_conversation(first, 1))
    assert await world.returned("Sue") == [("success", world.shown(("Bob", "ok")))]
    (second,) = await world.store.read(lambda: groups.conversations_of(group.id))
    assert second != first


async def test_the_sleeptime_agent_runs_on_every_nth_turn_with_what_is_new_to_it(world: Groups) -> None:
    _, group = await world.sleeper("Ann")
    assert (group.manager_type, group.frequency) == ("sleeptime", 5)
    await world.change(group, frequency=2)
    assert await world.rest_ids("Ann", "one") is None
    (first,) = await world.rest_ids("Ann", "two") or ()
    await world.runner.outcome(first)
    assert await world.transcript("Ann") == ["user: one", "assistant: ok", "user: two", "assistant: ok"]
    assert await world.rest_ids("Ann", "three") is None
    (second,) = await world.rest_ids("Ann", "four") or ()
    await world.runner.outcome(second)
    assert await world.transcript("Ann") == ["user: three", "assistant: ok", "user: four", "assistant: ok"]
    run = await world.runner.run(second)
    assert (run.status, run.background, run.agent_id) == ("completed", True, world.ids["Ann-sleeptime"])


async def test_what_the_sleeptime_agent_writes_is_the_primarys_memory(world: Groups) -> None:
    model, group = await world.sleeper("Ann")
    await world.change(group, frequency=1)
    edit = {"label": "human", "new_string": "likes tea"}
    model.answers = ["noted", ToolCall("i", "memory_insert", json.dumps(edit)), "done", "hello again"]
    (rest,) = await world.rest_ids("Ann", "I like tea") or ()
    await world.runner.outcome(rest)
    await world.change(group, frequency=100)
    await world.send("Ann", "hi")
    assert "likes tea" in model.prompts[-1].system


async def test_an_edit_of_both_at_once_loses_neither(world: Groups) -> None:
    """The sleeptime agent's edit is committed between the primary's reading of the block and its own commit."""
    model, group = await world.sleeper("Ann", tools=("memory_insert",))
    await world.change(group, frequency=1)

    def insert(text: str) -> ToolCall:
        return ToolCall(text, "memory_insert", json.dumps({"label": "human", "new_string": text}))

    model.answers = ["noted", insert("from sleep"), "slept"]
    (rest,) = await world.rest_ids("Ann", "one") or ()
    model.gate.clear()
    model.answers += [insert("from wake"), "woke"]
    waking = await world.start("Ann", "two")
    await eventually(lambda: len(model.prompts) >= 3)
    model.gate.set()
    await world.runner.outcome(rest)
    await world.runner.outcome(waking)
    bundle = await world.store.read(lambda: agents.agent_bundle(world.ids["Ann"]))
    (human,) = [block for block in bundle.blocks if block.label == "human"]
    assert sorted(human.value.splitlines()) == ["Ada", "from sleep", "from wake"]


async def test_a_failed_turn_is_not_counted(world: Groups) -> None:
    model, group = await world.sleeper("Ann")
    await world.change(group, frequency=2)
    model.answers = [RuntimeError("broken"), "fine"]
    await world.send("Ann", "one")
    assert await world.rest_ids("Ann", "two") is None
    progress = await world.store.read(lambda: groups.progress(group.id))
    assert progress is not None and progress.turns == 1


async def test_a_turn_that_ends_with_a_compaction_is_counted(world: Groups) -> None:
    model, group = await world.sleeper("Ann")
    await world.change(group, frequency=2)
    await world.send("Ann", "one")
    model.usage = Usage(8_000, 5, 8_005)
    model.answers = ["fine", "the notes"]
    assert await world.rest_ids("Ann", "two") is not None
    history = await world.said_in("Ann")
    assert history[-1].startswith("summary:") and history[-1].endswith("the notes")


async def test_a_sleeptime_agent_far_behind_is_not_given_more_to_wait(world: Groups) -> None:
    model, group = await world.sleeper("Ann")
    await world.change(group, frequency=1)
    sleeper = world.ids["Ann-sleeptime"]
    model.gate.clear()
    busy = await world.start("Ann-sleeptime", "think")
    await eventually(lambda: bool(model.prompts))
    fast = world.registry.add("test/other")
    agent = (await world.store.read(lambda: agents.agent_bundle(world.ids["Ann"]))).agent
    await world.store.write(lambda: agents.replace_agent(msgspec.structs.replace(agent, model="test/other")))
    counts = [len(await world.rest_ids("Ann", str(at)) or ()) for at in range(12)]
    assert counts == [1] * 10 + [0, 0]
    assert await world.store.read(lambda: queue_length(sleeper, 100)) == 10
    assert fast.prompts
    model.gate.set()
    await world.runner.outcome(busy)


async def test_a_voice_sleeptime_agent_runs_when_enough_is_new(world: Groups) -> None:
    model, group = await world.sleeper("Vi", agent_type="voice_convo_agent", include_base_tools=False)
    assert (group.manager_type, group.min_buffer, group.max_buffer) == ("voice_sleeptime", 15, 30)
    await world.change(group, min_buffer=1, max_buffer=3)
    assert await world.rest_ids("Vi", "one") is None
    (rest,) = await world.rest_ids("Vi", "two") or ()
    await world.runner.outcome(rest)
    assert await world.transcript("Vi") == ["user: one", "assistant: ok", "user: two"]
    assert model.prompts


async def test_the_agent_and_its_sleeptime_agent_share_blocks_and_go_together(world: Groups) -> None:
    _, group = await world.sleeper("Ann")
    primary, other = [
        await world.store.read(lambda id=id: agents.agent_bundle(id)) for id in (world.ids["Ann"], group.agent_ids[0])
    ]
    assert [block.id for block in primary.blocks] == [block.id for block in other.blocks][:-1]
    assert other.blocks[-1].label == "memory_persona"
    assert (other.agent.name, other.agent.agent_type) == ("Ann-sleeptime", "sleeptime_agent")
    assert "memory_insert" not in {tool.name for tool in primary.tools}
    assert {"memory_insert", "memory_finish_edits"} <= {tool.name for tool in other.tools}
    await world.store.write(lambda: agents.delete_agent(world.ids["Ann"]))
    assert await world.store.read(agents.count_agents) == 0
    assert await world.store.read(groups.count_groups) == 0


async def test_a_sleeptime_agent_comes_and_goes_with_an_update(world: Groups) -> None:
    model = await world.agent("Ann", memory_blocks=(BlockSpec(label="human", value="Ada"),))
    ann = world.ids["Ann"]
    enable = AgentChange(enable_sleeptime=True)
    view = await update_agent(world.store, world.registry, ann, enable)
    group = view.bundle.group
    assert group is not None
    assert (group.manager_type, group.frequency, group.own_members) == ("sleeptime", 5, True)
    other = await world.store.read(lambda: agents.agent_bundle(group.agent_ids[0]))
    assert (other.agent.name, other.agent.model) == ("Ann-sleeptime", view.bundle.agent.model)
    assert [block.label for block in other.blocks] == ["human", "memory_persona"]
    await update_agent(world.store, world.registry, ann, enable)  # is a group already
    assert await world.store.read(groups.count_groups) == 1
    await world.change(group, frequency=1)
    model.answers = ["hi", "slept"]
    (rest,) = await world.rest_ids("Ann", "hello") or ()
    await world.runner.outcome(rest)
    gone = await update_agent(world.store, world.registry, ann, AgentChange(enable_sleeptime=False))
    assert gone.bundle.group is None and gone.bundle.agent.enable_sleeptime is False
    assert await world.store.read(agents.count_agents) == 1
    assert await world.store.read(groups.count_groups) == 0
    assert await world.rest_ids("Ann", "again") is None


async def test_a_manager_of_another_group_gets_no_sleeptime_agent(world: Groups) -> None:
    await world.agent("Boss")
    await world.agent("One")
    made = await world.group("supervisor", "Boss", "One")
    with pytest.raises(Conflict, match="manages group"):
        await update_agent(world.store, world.registry, world.ids["Boss"], AgentChange(enable_sleeptime=True))
    assert await world.store.read(agents.count_agents) == 2
    await update_agent(world.store, world.registry, world.ids["Boss"], AgentChange(enable_sleeptime=False))
    assert (await world.store.read(lambda: groups.group_view(made.id))).group == made


async def test_the_runs_of_agents_without_a_group_ask_nothing_more(world: Groups) -> None:
    await world.agent("Ann")
    await world.send("Ann", "warm up")
    asked: list[str] = []
    real = world.store.read

    async def counting(tx: Any) -> Any:
        asked.append("read")
        return await real(tx)

    world.store.read = counting  # type: ignore[method-assign]
    try:
        await world.send("Ann", "plain")
    finally:
        world.store.read = real  # type: ignore[method-assign]
    assert asked == []


async def test_create_agent_without_sleeptime_has_no_group(world: Groups) -> None:
    await create_agent(world.store, world.registry, AgentSpec(name="Solo", model=world.registry.add("m") and "m"))
    assert await world.store.read(groups.count_groups) == 0
