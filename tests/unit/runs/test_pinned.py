"""Pinned messages through real compactions: they stay word for word, with what belongs to them, on every way to the context."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.core.agents import Agent, Block, CompactionSettings
from perdure.core.events import RunFailed, RunStopped, Summarised
from perdure.core.ids import new_id
from perdure.core.messages import ToolCall
from perdure.runs.context_use import context_use
from perdure.store import agents
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.unit.runs.compaction_world import World, new_world, scripted_engine
from tests.unit.runs.test_compaction import only, overflow, talk


async def pin(world: World, *message_ids: str, **settings: Any) -> None:
    await change(world, lambda agent: CompactionSettings(pinned_message_ids=message_ids, **settings))


async def change(world: World, make: Callable[[Agent], CompactionSettings]) -> None:
    def tx() -> Any:
        agent = yield from agents.agent_by_id(world.agent.id)
        yield from agents.replace_agent(msgspec.structs.replace(agent, compaction_settings=make(agent)))

    await world.store.write(tx)


async def said(world: World, text: str) -> str:
    return next(message.id for message in await world.history() if message.text == text)


@pytest.fixture
async def world(store: SqliteStore) -> Any:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None
    made = await new_world(store, tools=(tool,), blocks=(Block(id=new_id("block"), label="human", value=""),))
    yield made
    await made.runner.stop()


@pytest.mark.parametrize("mode", ["sliding_window", "all", "self_compact_all", "self_compact_sliding_window"])
async def test_a_pinned_message_stays_through_compactions_in_a_row(world: World, mode: str) -> None:
    await world.send("The code is 4711. Never forget it.")
    code = await said(world, "The code is 4711. Never forget it.")
    await pin(world, code, mode=mode)
    for turn in range(4):
        await talk(world, 3)
        world.said_tokens(1_900)
        world.model.answers = [f"answer {turn}", f"notes {turn}"]
        stats = only(await world.send(f"fill {turn}"), Summarised).stats
        world.said_tokens(100)
        context = await world.context()
        assert [message.id for message in context].count(code) == 1
        assert [message.role for message in context[:3]] == ["system", "summary", "user"]
        assert context[2].text == "The code is 4711. Never forget it."
        assert stats.messages_after == len(context)
    await world.send("and?")
    assert world.model.prompts[-1].messages[1].id == code


async def test_a_pinned_call_stays_with_its_return_and_the_rest_goes(world: World) -> None:
    arguments = msgspec.json.encode({"label": "human", "new_string": "likes tea"}).decode()
    world.model.answers = [ToolCall("c1", "memory_insert", arguments), "noted"]
    await world.send("remember")
    returned = next(message for message in await world.history() if message.role == "tool")
    await talk(world, 3)
    await pin(world, returned.id)
    await world.compact(CompactionSettings(mode="all"))
    assert [message.role for message in await world.context()] == ["system", "summary", "assistant", "tool"]
    await world.send("go on")
    roles = [message.role for message in world.model.prompts[-1].messages]
    assert roles == ["summary", "assistant", "tool", "user"]


async def test_a_pinned_answer_stays_with_its_question(world: World) -> None:
    world.model.answers = ["It is 4711."]
    await world.send("What is the code?")
    await talk(world, 3)
    await pin(world, await said(world, "It is 4711."))
    await world.compact(CompactionSettings(mode="all"))
    assert (await world.shape())[2:] == ["user: What is the code?", "assistant: It is 4711."]


async def test_pins_of_the_request_count_beside_the_agents(world: World) -> None:
    await world.send("first")
    await world.send("second")
    await talk(world, 3)
    await pin(world, await said(world, "first"))
    await world.compact(CompactionSettings(mode="all", pinned_message_ids=(await said(world, "second"),)))
    assert (await world.shape())[2:] == ["user: first", "user: second"]


async def test_what_is_not_pinned_any_more_goes_with_the_next_compaction(world: World) -> None:
    await world.send("first")
    await talk(world, 3)
    await pin(world, await said(world, "first"))
    await world.compact(CompactionSettings(mode="all"))
    assert "user: first" in await world.shape()
    await pin(world)
    await talk(world, 2)
    await world.compact(CompactionSettings(mode="all"))
    assert [message.role for message in await world.context()] == ["system", "summary"]


async def test_a_restarted_server_keeps_what_is_pinned(world: World) -> None:
    await world.send("first")
    await talk(world, 3)
    await pin(world, await said(world, "first"))
    await world.compact(CompactionSettings(mode="all"))
    await world.runner.stop()
    world.runner = world.new_runner()
    await world.send("again")
    assert [message.text for message in world.model.prompts[-1].messages[1:]] == ["first", "again"]


async def test_pins_that_leave_no_room_are_named_as_the_reason(world: World) -> None:
    world.model.chars, world.model.window = 1, 2_000
    for turn in range(3):
        await world.send(f"long {turn} " + "x" * 400)
    await pin(world, *[message.id for message in await world.history() if message.role == "user"])
    events = await world.send("y" * 700)
    assert only(events, RunStopped).reason == "llm_api_error"
    assert "pinned" in only(events, RunFailed).message
    await pin(world)
    world.model.chars = None
    assert only(await world.send("shorter"), RunStopped).reason == "end_turn"


async def test_the_trajectory_verifies_with_pinned_messages(store: SqliteStore) -> None:
    world = await new_world(store, engine=scripted_engine(default="a short answer"), window=1_000)
    await world.send("The code is 4711.")
    code = await said(world, "The code is 4711.")
    await pin(world, code)
    for turn in range(40):
        events = await world.send(f"question {turn}: " + "the quick brown fox " * 3)
        assert only(events, RunStopped).reason == "end_turn"
    assert sum(cause == "compaction" and not own for cause, own in await world.causes()) >= 2
    assert "The code is 4711." in world.prompt_texts()[-1]
    assert (await world.verified()).violations == []
    use = await context_use(store, world.registry, world.agent.id)  # type: ignore[arg-type]
    assert use.pinned_ids == (code,)
    assert 0 < use.pinned_tokens <= use.messages_tokens
    await world.runner.stop()


async def test_a_refused_prompt_is_made_smaller_around_what_is_pinned(world: World) -> None:
    await world.send("first")
    await pin(world, await said(world, "first"))
    await talk(world, 4)
    world.model.answers = [overflow(), "the notes", "answer"]
    events = await world.send("question")
    assert only(events, RunStopped).reason == "end_turn"
    assert world.model.prompts[-1].messages[1].text == "first"
