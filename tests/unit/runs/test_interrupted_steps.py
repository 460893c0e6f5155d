"""Tools that act outside of their step, and ends in the middle of one: what is on record, what is run again, what is kept."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block, Tool
from perdure.core.events import Event, RunStopped, TextDelta, ToolCallDelta, ToolsReturned
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolCall
from perdure.core.model import ModelDone, TextChunk, ToolCallChunk
from perdure.runs import held
from perdure.runs.runner import Runner
from perdure.store import agents, message_reads
from perdure.store.base import Built, Tx
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool, insert_tools
from perdure.tools.sandbox.result import SandboxResult
from tests.unit.runs.test_runner import World, insert


class Sandboxes:
    """Remembers what ran. `hang`: the calls of these functions never end."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.hang: set[str] = set()
        self.begun = asyncio.Event()

    async def run(self, *, function: str, args: dict[str, Any], **_: Any) -> SandboxResult:
        self.ran.append(function)
        self.begun.set()
        if function in self.hang:
            await asyncio.sleep(60)
        return SandboxResult(status="success", value=f"{function} did it")


async def new_world(store: SqliteStore) -> World:
    """An agent with a memory tool and three of its own: pay, log, and look, which is idempotent."""
    await ensure_builtin_tools(store)
    memory = await store.read(lambda: find_tool("memory_insert"))
    assert memory is not None
    now = now_us()
    own = [
        Tool(
            id=new_id("tool"),
            name=name,
            source_code=f"def {name}(): ...",
            json_schema={"name": name, "description": name, "parameters": {"type": "object", "properties": {}}},
            idempotent=name == "look",
        )
        for name in ("pay", "look", "log")
    ]
    await store.write(lambda: insert_tools(own))
    agent = Agent(id=new_id("agent"), name="test", system="You are a test.", model="m", created_us=now, updated_us=now)
    block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
    bundle = AgentBundle(agent=agent, blocks=(block,), tools=(memory, *own))
    await store.write(
        lambda: agents.create_agent(bundle, new_blocks=[block.id], system_message=first_system_message(bundle))
    )
    made = World(store, agent)
    made.sandbox = Sandboxes()  # type: ignore[attr-defined]
    made.runner = Runner(store, made.registry, made.sandbox)  # type: ignore[arg-type,attr-defined]
    return made


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[World]:
    made = await new_world(store)
    await made.runner.start()
    yield made
    made.model.gate.set()
    await made.runner.stop(grace_s=0)


def calling(*names: str) -> list[ToolCall]:
    return [ToolCall(f"call_{at}", name, "{}") for at, name in enumerate(names)]


async def kept(store: SqliteStore) -> int:
    def count() -> Tx[int]:
        rows = yield Built("SELECT COUNT(*) FROM begun_calls", {})
        return rows[0][0]

    return await store.scan(count)


async def crash(world: World) -> Runner:
    """The worker vanishes as if its process had; another takes up what it left."""
    for job in list(world.runner._jobs.values()):
        assert job.task is not None

        async def nothing(_: Any) -> None: ...

        world.runner._stopping = True
        world.runner._hand_over = nothing  # type: ignore[method-assign]
        job.task.cancel()
    await asyncio.sleep(0)

    def expire() -> Tx[None]:
        yield Built("UPDATE conversations SET lease_until_us = 1 WHERE active_run_id IS NOT NULL", {})

    await world.store.write(expire)
    other = Runner(world.store, world.registry, world.sandbox)  # type: ignore[arg-type,attr-defined]
    await other.start()
    return other


async def messages(world: World) -> list[Message]:
    return (await world.store.scan(lambda: message_reads.list_messages(agent_id=world.agent.id, limit=None)))[1:]


async def returns(world: World) -> dict[str, str]:
    found = [each for message in await messages(world) for each in message.tool_returns]
    return {each.name: str(each.content) for each in found}


async def finished(runner: Runner, run_id: str) -> list[Event]:
    events: list[Event] = []
    async for _, batch in runner.follow(run_id):
        events.extend(batch)
    return events


async def test_an_intent_is_durable_while_a_tool_runs_and_gone_with_its_step(world: World, store: SqliteStore) -> None:
    sandbox = world.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"pay"}
    world.model.answers = [calling("pay")]
    run_id = await world.submit("pay")
    await sandbox.begun.wait()
    assert await kept(store) == 1
    await world.runner.cancel(run_id)
    assert await kept(store) == 0


async def test_memory_tools_leave_no_intent(world: World, store: SqliteStore) -> None:
    writes: list[Any] = []
    write = store.write

    async def counted(tx: Any, **more: Any) -> Any:
        writes.append(tx)
        return await write(tx, **more)

    store.write = counted  # type: ignore[method-assign]
    world.model.answers = [insert("tea"), "noted"]
    await world.send("remember")
    assert len(writes) == 2  # one for each step


async def test_a_call_whose_outcome_is_unknown_is_not_repeated(world: World, store: SqliteStore) -> None:
    sandbox = world.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"pay"}
    world.model.answers = [calling("pay"), "I will look whether it was paid"]
    run_id = await world.submit("pay", background=True, streaming=True)
    await sandbox.begun.wait()
    other = await crash(world)
    events = await finished(other, run_id)
    assert sandbox.ran == ["pay"]
    assert len(world.model.prompts) == 2  # the answer that asked for the call is not paid for again
    returned = next(event for event in events if isinstance(event, ToolsReturned))
    assert returned.returns[0].status == "error" and "not known" in str(returned.returns[0].content)
    assert (await other.run(run_id)).status == "completed"
    assert [m.role for m in await messages(world)] == ["user", "assistant", "tool", "assistant"]
    assert await kept(store) == 0
    await other.stop()


async def test_an_idempotent_call_is_run_again(world: World) -> None:
    sandbox = world.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"look"}
    world.model.answers = [calling("look"), "seen"]
    run_id = await world.submit("look", background=True)
    await sandbox.begun.wait()
    sandbox.hang = set()
    other = await crash(world)
    await finished(other, run_id)
    assert sandbox.ran == ["look", "look"]
    assert len(world.model.prompts) == 2
    assert await returns(world) == {"look": "look did it"}
    await other.stop()


async def test_a_receipt_is_used_and_the_call_is_not_run_again(world: World, store: SqliteStore) -> None:
    sandbox = world.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"log"}
    world.model.answers = [[*calling("pay"), insert("paid", "call_m"), ToolCall("call_9", "log", "{}")], "done"]
    run_id = await world.submit("pay, remember, log", background=True)
    while sandbox.ran != ["pay", "log"]:
        await asyncio.sleep(0.001)
    while await kept(store) < 2:
        await asyncio.sleep(0.001)
    other = await crash(world)
    await finished(other, run_id)
    assert sandbox.ran == ["pay", "log"]
    told = await returns(world)
    assert told["pay"] == "pay did it" and "not known" in told["log"]
    assert told["memory_insert"] == "Ada\npaid" and (await world.block()).value == "Ada\npaid"
    assert (await other.run(run_id)).step_count == 2
    await other.stop()


async def test_what_was_said_before_a_call_is_shown_in_full_though_its_worker_is_lost_in_the_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "APART_S", 0.2)
    sandbox = world.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"pay"}
    (call,) = calling("pay")

    async def talking(prompt: Any, tokens: Any = None) -> AsyncIterator[Any]:
        if any(message.role == "tool" for message in prompt.messages):
            yield [ModelDone(finish="stop", content=(TextPart("done"),))]
            return
        yield [TextChunk("I ")]
        await asyncio.sleep(0.05)  # the first words are stored, the others would wait
        yield [TextChunk("pay "), TextChunk("now"), ToolCallChunk(0, call.id, call.name, call.arguments)]
        yield [ModelDone(finish="tool_calls", content=(TextPart("I pay now"),), tool_calls=(call,))]

    world.model.stream = talking  # type: ignore[method-assign]
    run_id = await world.submit("pay", streaming=True, stream_tokens=True, background=True)
    await sandbox.begun.wait()
    other = await crash(world)
    events = await finished(other, run_id)
    said = (await messages(world))[1]
    shown = [event.text for event in events if isinstance(event, TextDelta) and event.message_id == said.id]
    assert (said.text, "".join(shown)) == ("I pay now", "I pay now")
    assert sum(isinstance(event, ToolCallDelta) for event in events) == 1
    await other.stop()


async def test_a_worker_that_lost_its_lease_runs_no_tool(world: World, store: SqliteStore) -> None:
    world.model.gate.clear()
    world.model.answers = [calling("pay")]
    await world.submit("pay")
    await asyncio.sleep(0.02)

    def taken() -> Tx[None]:
        yield Built("UPDATE conversations SET fence = fence + 1, lease_owner = 'another'", {})

    await store.write(taken)
    world.model.gate.set()
    while world.runner.active:
        await asyncio.sleep(0.001)
    assert world.sandbox.ran == []  # type: ignore[attr-defined]
    assert await kept(store) == 0
    assert [m.role for m in await messages(world)] == ["user"]


async def test_cancelling_inside_a_tool_keeps_what_was_said_and_closes_the_call(world: World) -> None:
    sandbox = world.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"log"}
    world.model.answers = [[insert("x", "call_m"), *calling("pay", "log")]]
    run_id = await world.submit("go", streaming=True)
    while sandbox.ran != ["pay", "log"]:
        await asyncio.sleep(0.001)
    await world.runner.cancel(run_id)
    told = await returns(world)
    assert told["pay"] == "pay did it"
    assert "was cancelled. Whether it took effect is not known" in told["log"]
    assert "was not run" in told["memory_insert"] and (await world.block()).value == "Ada"
    events = await finished(world.runner, run_id)
    assert [e.reason for e in events if isinstance(e, RunStopped)] == ["cancelled"]
    run = await world.runner.run(run_id)
    assert (run.status, run.step_count, run.usage.total_tokens) == ("cancelled", 1, 15)
    await world.send("again")
    assert [m.role for m in world.model.prompts[-1].messages] == ["user", "assistant", "tool", "user"]


async def test_text_that_was_shown_before_a_cancellation_is_kept_and_marked(world: World) -> None:
    run_id = await world.submit("talk", streaming=True, stream_tokens=True)
    shown = await half_an_answer(world, run_id)
    await world.runner.cancel(run_id)
    last = (await messages(world))[-1]
    assert (last.role, last.text, last.interrupted) == ("assistant", shown, "cancelled")
    await world.send("again")
    said = [(m.role, m.text) for m in world.model.prompts[-1].messages]
    assert said == [("user", "talk"), ("assistant", shown), ("user", "again")]
    assert (await world.runner.run(run_id)).step_count == 1


async def half_an_answer(world: World, run_id: str) -> str:
    async for _, batch in world.runner.follow(run_id):
        if texts := [text for event in batch if (text := getattr(event, "text", None))]:
            return "".join(texts)
    raise AssertionError("nothing was shown")


@pytest.fixture(autouse=True)
def slow_second_half(world: World) -> None:
    """A streamed answer to "talk" stops in the middle."""
    stream = world.model.stream

    async def halting(prompt: Any, tokens: Any = None) -> AsyncIterator[Any]:
        if prompt.messages[-1].text == "talk":
            world.model.prompts.append(prompt)
            yield [TextChunk("half an ans")]
            await asyncio.sleep(60)
        async for item in stream(prompt, tokens):
            yield item

    world.model.stream = halting  # type: ignore[method-assign]


async def test_an_answer_that_is_asked_for_again_stays_in_the_history_out_of_the_prompt(world: World) -> None:
    run_id = await world.submit("talk", streaming=True, stream_tokens=True, background=True)
    shown = await half_an_answer(world, run_id)

    asked: list[list[str]] = []

    async def whole(prompt: Any, tokens: Any = None) -> AsyncIterator[Any]:
        asked.append([m.role for m in prompt.messages])
        yield [TextChunk("whole")]
        yield [ModelDone(finish="stop", content=(TextPart("whole"),))]

    world.model.stream = whole  # type: ignore[method-assign]
    other = await crash(world)
    await finished(other, run_id)
    said = [(m.role, m.text, m.interrupted) for m in await messages(world)]
    assert said == [("user", "talk", None), ("assistant", shown, "retried"), ("assistant", "whole", None)]
    assert asked == [["user"]]
    await other.stop()


async def test_a_queued_run_that_is_cancelled_ends_for_its_followers(world: World) -> None:
    world.model.gate.clear()
    await world.submit("first")
    second = await world.submit("second")
    following = asyncio.ensure_future(world.events(second))
    await asyncio.sleep(0.01)
    await world.runner.cancel(second)
    events = await asyncio.wait_for(following, 2)
    assert [e.reason for e in events if isinstance(e, RunStopped)] == ["cancelled"]


async def test_a_run_that_ends_its_workers_is_given_up_with_the_reason(world: World, store: SqliteStore) -> None:
    sandbox = world.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"pay"}
    world.model.answers = [calling("pay")]
    run_id = await world.submit("pay", background=True)
    await sandbox.begun.wait()

    def worn_out() -> Tx[None]:
        yield Built("UPDATE runs SET attempts = 5", {})

    await store.write(worn_out)
    other = await crash(world)
    await finished(other, run_id)
    run = await other.run(run_id)
    assert run.status == "failed" and run.error is not None and "5 times" in run.error["message"]
    assert "given up" in (await returns(world))["pay"]
    assert [m.role for m in await messages(world)] == ["user", "assistant", "tool"]
    await other.stop()


async def test_a_cancelled_run_is_never_taken_up_again(world: World, store: SqliteStore) -> None:
    """Also where its worker was lost before it heard of the cancellation. What that showed keeps its numbers."""
    world.model.gate.clear()
    run_id = await world.submit("hello", background=True, include_pings=True)
    await asyncio.sleep(0.02)

    def asked_for() -> Tx[None]:
        yield Built("UPDATE runs SET cancel_requested = 1", {})

    await store.write(asked_for)
    shown = list(world.runner._logs[run_id].events)
    other = await crash(world)
    events = await finished(other, run_id)
    run = await other.run(run_id)
    assert (run.status, run.stop_reason) == ("cancelled", "cancelled")
    assert events[: len(shown)] == shown != []
    assert len(world.model.prompts) == 1
    await other.stop()


async def test_a_shutdown_hands_over_and_is_no_failed_attempt(world: World, store: SqliteStore) -> None:
    world.model.gate.clear()
    run_id = await world.submit("hello", background=True)
    await asyncio.sleep(0.02)
    await world.runner.stop(grace_s=0)
    assert (await store.read(lambda: run_reads_attempts(run_id))) == 1
    world.model.gate.set()
    other = Runner(store, world.registry, world.sandbox)  # type: ignore[arg-type,attr-defined]
    await other.start()
    await finished(other, run_id)
    assert (await other.run(run_id)).status == "completed"
    await other.stop()


def run_reads_attempts(run_id: str) -> Tx[int]:
    rows = yield Built("SELECT attempts FROM runs WHERE id = :id", {"id": run_id})
    return rows[0][0]
