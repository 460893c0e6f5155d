"""Conversations of one agent in parallel: who sees which memory, what model answers, and that no edit is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.conversations import (
    ConversationChange,
    ConversationSpec,
    create_conversation,
    update_conversation,
)
from perdure.agents.fork import fork_conversation
from perdure.agents.recompile import compiled_text, first_system_message
from perdure.core.agents import Agent, AgentBundle, Block, ModelSettings
from perdure.core.events import Event, ToolsReturned
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolCall
from perdure.core.runs import Run, RunConfig
from perdure.runs.runner import Runner
from perdure.store import agents, blocks
from perdure.store.conversation_edits import delete_conversation
from perdure.store.conversation_reads import conversation_view
from perdure.store.private_blocks import private_blocks
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.doubles.models import OneModel, PlayedModel

TOOLS = ("memory_insert", "memory_replace", "memory")


class World:
    """One agent with the blocks human and notes and the memory tools."""

    def __init__(self, store: SqliteStore, agent: Agent) -> None:
        self.store = store
        self.agent = agent
        self.model = PlayedModel()
        self.registry: Any = OneModel(self.model)
        self.runner = Runner(store, self.registry, None)  # type: ignore[arg-type]

    async def conversation(self, **fields: Any) -> str:
        made = await create_conversation(self.store, self.registry, ConversationSpec(agent_id=self.agent.id, **fields))
        return made.conversation.id

    async def submit(self, conversation_id: str, text: str) -> str:
        now, agent_id = now_us(), self.agent.id
        run = Run(
            id=new_id("run"), agent_id=agent_id, conversation_id=conversation_id, status="created", created_us=now,
            config=RunConfig(include_pings=False),
        )  # fmt: skip
        message = Message(
            id=new_id("message"), role="user", created_us=now, content=(TextPart(text),), agent_id=agent_id,
            conversation_id=conversation_id, run_id=run.id,
        )  # fmt: skip
        return (await self.runner.submit(run, (message,), (), wait=True)).run_id

    async def events(self, run_id: str) -> list[Event]:
        found: list[Event] = []
        async for _, batch in self.runner.follow(run_id):
            found.extend(batch)
        return found

    async def send(self, conversation_id: str, text: str) -> list[Event]:
        return await self.events(await self.submit(conversation_id, text))

    async def shared(self) -> dict[str, str]:
        bundle = await self.store.read(lambda: agents.agent_bundle(self.agent.id))
        return {block.label: block.value for block in bundle.blocks}

    async def private(self, conversation_id: str) -> dict[str, str]:
        own = await self.store.read(lambda: private_blocks(conversation_id))
        return {block.label: block.value for block in own}


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[World]:
    await ensure_builtin_tools(store)
    tools = [await store.read(lambda name=name: find_tool(name)) for name in TOOLS]
    now = now_us()
    agent = Agent(
        id=new_id("agent"), name="test", system="You are a test.", model="m", created_us=now, updated_us=now,
        model_settings=ModelSettings(temperature=0.1, top_p=0.5),
    )  # fmt: skip
    made = [
        Block(id=new_id("block"), label=label, value=value, created_us=now, updated_us=now)
        for label, value in (("human", "Ada"), ("notes", "none"))
    ]
    bundle = AgentBundle(agent=agent, blocks=tuple(made), tools=tuple(tool for tool in tools if tool is not None))
    system = first_system_message(bundle)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=[b.id for b in made], system_message=system))
    world = World(store, agent)
    await world.runner.start()
    yield world
    world.model.gate.set()
    await world.runner.stop()


def use(tool: str, **arguments: Any) -> ToolCall:
    return ToolCall(new_id("call"), tool, msgspec.json.encode(arguments).decode())


def insert(text: str, label: str = "human") -> ToolCall:
    return use("memory_insert", label=label, new_string=text)


def returned(events: list[Event]) -> tuple[str, str]:
    """(status, text) of the first tool return."""
    answer = next(event for event in events if isinstance(event, ToolsReturned)).returns[0]
    assert isinstance(answer.content, str)
    return answer.status, answer.content


async def in_the_model(world: World, count: int) -> None:
    while len(world.model.prompts) < count:
        await asyncio.sleep(0.001)


async def test_two_conversations_of_one_agent_run_at_once_and_both_memory_edits_survive(world: World) -> None:
    one, two = await world.conversation(), await world.conversation()
    world.model.gate.clear()
    world.model.answers = [insert("likes tea"), insert("likes rain")]
    runs = [await world.submit(one, "remember tea"), await world.submit(two, "remember rain")]
    await in_the_model(world, 2)  # both are with the model: neither waits for the other's run
    assert {prompt.conversation_id for prompt in world.model.prompts} == {one, two}
    world.model.gate.set()
    for run_id in runs:
        await world.events(run_id)
    value = (await world.shared())["human"]
    assert sorted(value.split("\n")) == ["Ada", "likes rain", "likes tea"]


async def test_many_conversations_lose_no_edit(world: World) -> None:
    threads = [await world.conversation() for _ in range(12)] + [world.agent.id]
    world.model.gate.clear()
    world.model.answers = [insert(f"fact {n}") for n in range(len(threads))]
    runs = [await world.submit(thread, "remember") for thread in threads]
    await in_the_model(world, len(threads))
    world.model.gate.set()
    for run_id in runs:
        assert (await world.runner.run(run_id)) and returned(await world.events(run_id))[0] == "success"
    lines = (await world.shared())["human"].split("\n")
    assert sorted(lines[1:]) == sorted(f"fact {n}" for n in range(len(threads)))


async def test_of_two_blocks_made_with_one_label_at_once_the_second_is_told(world: World) -> None:
    one, two = await world.conversation(), await world.conversation()
    world.model.gate.clear()
    world.model.answers = [use("memory", command="create", path="/memories/plans", file_text=text) for text in "ab"]
    runs = [await world.submit(thread, "plan") for thread in (one, two)]
    await in_the_model(world, 2)
    world.model.gate.set()
    told = sorted([returned(await world.events(run_id)) for run_id in runs])
    assert [status for status, _ in told] == ["error", "success"]
    assert "already" in told[0][1]
    assert [(await world.runner.run(run_id)).status for run_id in runs] == ["completed"] * 2
    assert (await world.shared())["plans"] in ("a", "b")


async def test_of_two_blocks_renamed_to_one_label_at_once_the_second_is_told(world: World) -> None:
    one, two = await world.conversation(), await world.conversation()
    world.model.gate.clear()
    world.model.answers = [
        use("memory", command="rename", old_path=f"/memories/{label}", new_path="/memories/all")
        for label in ("human", "notes")
    ]
    runs = [await world.submit(thread, "tidy") for thread in (one, two)]
    await in_the_model(world, 2)
    world.model.gate.set()
    told = sorted([returned(await world.events(run_id))[0] for run_id in runs])
    assert told == ["error", "success"]
    assert sorted(await world.shared()) in (["all", "human"], ["all", "notes"])


async def test_a_shared_edit_shows_in_the_other_conversations_next_prompt(world: World) -> None:
    one, two = await world.conversation(), await world.conversation()
    await world.send(two, "hello")
    world.model.answers = [insert("likes tea")]
    await world.send(one, "remember")
    await world.send(two, "again")
    assert "likes tea" not in world.model.prompts[0].system
    assert "likes tea" in world.model.prompts[-1].system
    assert f"CONVERSATION_ID: {two}" in world.model.prompts[-1].system


async def test_edits_of_an_isolated_block_touch_only_the_conversations_copy(world: World) -> None:
    apart, beside = await world.conversation(isolated_block_labels=("human",)), await world.conversation()
    world.model.answers = [insert("likes tea"), insert("shared", "notes")]
    await world.send(apart, "remember")
    assert (await world.shared(), await world.private(apart)) == (
        {"human": "Ada", "notes": "none\nshared"},
        {"human": "Ada\nlikes tea"},
    )
    world.model.answers = [insert("again"), "ok", "ok", "ok"]
    await world.send(apart, "more")
    await world.send(apart, "what do you know?")
    assert "likes tea\nagain" in world.model.prompts[-1].system
    await world.send(beside, "and you?")
    assert "likes tea" not in world.model.prompts[-1].system
    assert (await world.private(apart))["human"] == "Ada\nlikes tea\nagain"


async def test_an_edit_of_the_copy_by_a_person_shows_in_the_next_prompt(world: World, store: SqliteStore) -> None:
    apart = await world.conversation(isolated_block_labels=("human",))
    await world.send(apart, "hello")
    (copy,) = await store.read(lambda: private_blocks(apart))
    await store.write(lambda: blocks.replace_block(msgspec.structs.replace(copy, value="Bob")))
    await world.send(apart, "again")
    assert "Bob" in world.model.prompts[-1].system and "Bob" not in world.model.prompts[0].system
    assert "Bob" in await store.read(lambda: compiled_text(apart))


async def test_a_copy_that_changed_meanwhile_is_edited_again(world: World, store: SqliteStore) -> None:
    apart = await world.conversation(isolated_block_labels=("human",))

    async def meddle() -> None:
        world.model.during = None
        (copy,) = await store.read(lambda: private_blocks(apart))
        await store.write(lambda: blocks.replace_block(msgspec.structs.replace(copy, value="Bob")))

    world.model.answers, world.model.during = [insert("likes tea")], meddle
    await world.send(apart, "remember")
    assert await world.private(apart) == {"human": "Bob\nlikes tea"}
    assert (await world.shared())["human"] == "Ada"


async def test_a_copy_can_be_removed_renamed_and_made_anew_without_touching_the_agents(world: World) -> None:
    apart = await world.conversation(isolated_block_labels=("human", "notes"))
    world.model.answers = [
        use("memory", command="delete", path="/memories/human"),
        use("memory", command="rename", old_path="/memories/notes", new_path="/memories/log"),
        "ok",
    ]
    await world.send(apart, "tidy")
    assert await world.private(apart) == {"log": "none"}
    await world.send(apart, "what is left?")
    assert "<log>" in world.model.prompts[-1].system
    assert "<human>" not in world.model.prompts[-1].system and "<notes>" not in world.model.prompts[-1].system
    world.model.answers = [use("memory", command="create", path="/memories/human", file_text="Eve"), "ok"]
    assert returned(await world.send(apart, "begin again"))[0] == "success"
    assert await world.private(apart) == {"log": "none", "human": "Eve"}
    assert await world.shared() == {"human": "Ada", "notes": "none"}


async def test_the_copies_go_with_the_conversation(world: World, store: SqliteStore) -> None:
    apart = await world.conversation(isolated_block_labels=("human",))
    (copy,) = await store.read(lambda: private_blocks(apart))
    before = await store.read(blocks.count_blocks)
    await store.write(lambda: delete_conversation(apart, now_us()))
    assert await store.read(blocks.count_blocks) == before - 1
    assert copy.value == (await world.shared())["human"]


async def test_an_isolated_conversation_goes_on_in_another_process(world: World, store: SqliteStore) -> None:
    apart = await world.conversation(isolated_block_labels=("human",))
    world.model.answers = [insert("likes tea")]
    await world.send(apart, "remember")
    world.runner = Runner(store, world.registry, None)  # type: ignore[arg-type]
    await world.send(apart, "and now?")
    assert "likes tea" in world.model.prompts[-1].system
    said = [(message.role, message.text) for message in world.model.prompts[-1].messages]
    assert [text for role, text in said if role == "user"] == ["remember", "and now?"]


async def test_a_conversations_model_and_settings_beat_the_agents(world: World, store: SqliteStore) -> None:
    own = await world.conversation(
        model="other/model",
        model_settings=ModelSettings(temperature=0.9, raw={"temperature": 0.9}),
        context_window_limit=1234,
    )
    await world.send(own, "hello")
    prompt = world.model.prompts[-1]
    assert (prompt.model_handle, prompt.context_window) == ("other/model", 1234)
    assert (prompt.settings.temperature, prompt.settings.top_p) == (0.9, 0.5)
    await update_conversation(
        store, world.registry, own, ConversationChange(model=None, model_settings=None, context_window=None)
    )
    await world.send(own, "hello")
    prompt = world.model.prompts[-1]
    assert (prompt.model_handle, prompt.context_window) == ("m", world.agent.context_window)
    assert prompt.settings.temperature == 0.1
    await world.send(world.agent.id, "hello")
    assert world.model.prompts[-1].model_handle == "m"


async def test_memory_can_be_appended_in_one_conversation_and_recompiled_in_another(world: World) -> None:
    appending = await world.conversation(memory_rendering="append", isolated_block_labels=("human",))
    await world.send(appending, "hello")
    world.model.answers = [insert("likes tea", "notes"), "ok", "ok"]
    await world.send(world.agent.id, "remember")
    await world.send(appending, "again")
    first, last = world.model.prompts[0], world.model.prompts[-1]
    assert last.system == first.system
    assert any("likes tea" in message.text for message in last.messages)


async def test_a_fork_goes_on_from_the_others_context_and_leaves_it_alone(world: World, store: SqliteStore) -> None:
    source = await world.conversation(isolated_block_labels=("human",))
    world.model.answers = [insert("likes tea"), "noted"]
    await world.send(source, "remember")
    forked = (await store.write(lambda: fork_conversation(source))).conversation.id
    await world.send(forked, "in the fork")
    await world.send(source, "in the source")
    in_fork, in_source = world.model.prompts[-2], world.model.prompts[-1]
    assert [m.id for m in in_fork.messages[:4]] == [m.id for m in in_source.messages[:4]]
    assert in_fork.messages[4].text == "in the fork" and in_source.messages[4].text == "in the source"
    assert "likes tea" in in_fork.system and forked in in_fork.system
    world.model.answers = [insert("likes rain")]
    await world.send(forked, "remember more")
    assert await world.private(source) == {"human": "Ada\nlikes tea"}
    assert await world.private(forked) == {"human": "Ada\nlikes tea\nlikes rain"}
    view = await store.read(lambda: conversation_view(forked))
    assert view.conversation.settings.isolated == ("human",)


async def test_a_fork_never_begins_with_a_call_without_its_return(world: World, store: SqliteStore) -> None:
    source = await world.conversation()
    world.model.answers = [insert("likes tea"), "noted"]
    await world.send(source, "remember")
    ids = (await store.read(lambda: conversation_view(source))).message_ids
    _, said, called, came_back, _ = ids
    at_call = await store.write(lambda: fork_conversation(source, message_id=called))
    assert at_call.message_ids[1:] == (said, called, came_back)
    at_start = await store.write(lambda: fork_conversation(source, message_id=ids[0]))
    assert len(at_start.message_ids) == 1 and at_start.message_ids[0] != ids[0]
    again = await store.write(lambda: fork_conversation(at_call.conversation.id, message_id=said))
    assert again.message_ids[1:] == (said,)


async def test_what_is_large_is_not_written_on_the_event_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    quick: list[bool] = []
    submit = world.store._writer.submit  # type: ignore[attr-defined]

    def noted(tx: Any, **how: bool) -> Any:
        quick.append(how["quick"])
        return submit(tx, **how)

    monkeypatch.setattr(world.store._writer, "submit", noted)  # type: ignore[attr-defined]
    thread = await world.conversation()
    quick.clear()
    await world.send(thread, "short")
    assert quick and all(quick)
    quick.clear()
    await world.send(thread, "long " * 300_000)  # its acceptance
    assert quick.count(False) == 1
    quick.clear()
    world.model.answers = [insert("long " * 300_000)]  # the step that says so
    await world.send(thread, "short")
    assert quick.count(False) == 1
