"""Runs from acceptance to their end, on a real store with a played model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block
from perdure.core.errors import Conflict, NotFound, ProviderError
from perdure.core.events import Event, LogEnded, RunFailed, RunStopped, Said, TextDelta, ToolsReturned, UsageReported
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolCall
from perdure.core.runs import Run, RunConfig
from perdure.runs.runner import Runner
from perdure.store import agents, blocks, message_reads
from perdure.store.base import Built, Tx
from perdure.store.runs import active_runs
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.doubles.models import OneModel, PlayedModel


class World:
    """One agent with a block and the memory tools."""

    def __init__(self, store: SqliteStore, agent: Agent) -> None:
        self.store = store
        self.agent = agent
        self.model = PlayedModel()
        self.registry = OneModel(self.model)
        self.runner = Runner(store, self.registry, None)  # type: ignore[arg-type]

    async def submit(self, text: str, *, otid: str | None = None, wait: bool = True, **config: Any) -> str:
        now = now_us()
        run = Run(
            id=new_id("run"),
            agent_id=self.agent.id,
            conversation_id=self.agent.id,
            status="created",
            created_us=now,
            config=RunConfig(**{"include_pings": False, **config}),
            background=bool(config.get("background")),
        )
        message = Message(
            id=new_id("message"),
            role="user",
            created_us=now,
            content=(TextPart(text),),
            agent_id=self.agent.id,
            conversation_id=self.agent.id,
            run_id=run.id,
            otid=otid,
        )
        submitted = await self.runner.submit(run, (message,), (otid,) if otid else (), wait=wait)
        await submitted.durable
        return submitted.run_id

    async def events(self, run_id: str, after: int = 0) -> list[Event]:
        found: list[Event] = []
        async for _, batch in self.runner.follow(run_id, after):
            found.extend(batch)
        return found

    async def send(self, text: str, **config: Any) -> list[Event]:
        return await self.events(await self.submit(text, **config))

    async def history(self) -> list[str]:
        found = await self.store.scan(lambda: message_reads.list_messages(agent_id=self.agent.id, limit=None))
        return [f"{message.role}: {message.text or [c.name for c in message.tool_calls]}" for message in found[1:]]

    async def block(self) -> Block:
        return (await self.store.read(lambda: agents.agent_bundle(self.agent.id))).blocks[0]


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[World]:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None
    now = now_us()
    agent = Agent(id=new_id("agent"), name="test", system="You are a test.", model="m", created_us=now, updated_us=now)
    block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
    bundle = AgentBundle(agent=agent, blocks=(block,), tools=(tool,))
    system = first_system_message(bundle)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=[block.id], system_message=system))
    made = World(store, agent)
    await made.runner.start()
    yield made
    made.model.gate.set()
    await made.runner.stop()


def insert(text: str, id: str = "call_1") -> ToolCall:
    return ToolCall(id, "memory_insert", msgspec.json.encode({"label": "human", "new_string": text}).decode())


async def test_an_answer_is_stored_and_told(world: World) -> None:
    events = await world.send("hello")
    assert [type(event) for event in events] == [Said, RunStopped, UsageReported, LogEnded]
    assert await world.history() == ["user: hello", "assistant: ok"]


async def test_deltas_replace_the_whole_answer_in_a_token_stream(world: World) -> None:
    world.model.answers = ["answer"]
    events = await world.send("hello", streaming=True, stream_tokens=True)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["ans", "wer"]
    assert not any(isinstance(event, Said) for event in events)


async def test_the_log_reads_the_same_from_storage(world: World, store: SqliteStore) -> None:
    world.model.answers = [insert("x"), "done"]
    run_id = await world.submit("hello", streaming=True, stream_tokens=True, include_pings=True)
    live = await world.events(run_id)
    other = Runner(store, world.registry, None)  # type: ignore[arg-type]
    for after in range(len(live) + 1):
        stored: list[Event] = []
        async for _, batch in other.follow(run_id, after):
            stored.extend(batch)
        assert stored == live[after:]


async def test_a_memory_edit_is_committed_with_its_step(world: World) -> None:
    world.model.answers = [insert("loves tea"), "noted"]
    events = await world.send("remember")
    returned = next(event for event in events if isinstance(event, ToolsReturned))
    assert returned.returns[0].content == "Ada\nloves tea"
    assert (await world.block()).value == "Ada\nloves tea"


async def test_the_prompt_stays_within_a_request_and_shows_the_edit_in_the_next(world: World) -> None:
    world.model.answers = [insert("loves tea"), "noted", "hi"]
    await world.send("remember")
    await world.send("hello")
    first, second, third = world.model.prompts
    assert first.system == second.system
    assert "loves tea" not in second.system
    assert "loves tea" in third.system


async def test_an_edit_on_a_block_that_changed_meanwhile_is_made_again(world: World, store: SqliteStore) -> None:
    async def meddle() -> None:
        world.model.during = None
        block = await world.block()
        await store.write(lambda: blocks.replace_block(msgspec.structs.replace(block, value="Bob")))

    world.model.answers = [insert("loves tea"), "noted"]
    world.model.during = meddle
    events = await world.send("remember")
    assert (await world.block()).value == "Bob\nloves tea"
    returned = next(event for event in events if isinstance(event, ToolsReturned))
    assert returned.returns[0].content == "Bob\nloves tea"


async def test_messages_to_a_busy_conversation_wait_in_order(world: World) -> None:
    world.model.gate.clear()
    runs = [await world.submit(f"m{n}") for n in range(5)]
    world.model.gate.set()
    for run_id in runs:
        await world.events(run_id)
    said = [line for line in await world.history() if line.startswith("user")]
    assert said == [f"user: m{n}" for n in range(5)]
    assert (await world.history())[1::2] == ["assistant: ok"] * 5


async def test_a_busy_conversation_that_is_not_waited_for_names_the_holder(world: World) -> None:
    world.model.gate.clear()
    run_id = await world.submit("first")
    with pytest.raises(Conflict) as busy:
        await world.submit("second", wait=False)
    assert busy.value.run_id == run_id
    world.model.gate.set()
    await world.events(run_id)
    assert await world.history() == ["user: first", "assistant: ok"]


async def test_a_known_otid_attaches_to_its_run(world: World) -> None:
    first = await world.submit("hello", otid="o-1")
    second = await world.submit("hello", otid="o-1")
    assert first == second
    await world.events(first)
    assert await world.events(await world.submit("hello", otid="o-1")) == await world.events(first)
    assert len(world.model.prompts) == 1


async def test_a_failed_model_call_keeps_the_message_and_the_agent(world: World) -> None:
    world.model.answers = [ProviderError("no key", kind="llm_authentication", status=401), "fine"]
    events = await world.send("hello")
    assert [type(event) for event in events] == [RunStopped, RunFailed, LogEnded]
    await world.send("again")
    assert await world.history() == ["user: hello", "user: again", "assistant: fine"]


async def test_a_model_that_cannot_be_found_ends_the_run(world: World) -> None:
    world.registry.failure = NotFound("no such model")
    run_id = await world.submit("hello")
    await world.events(run_id)
    run = await world.runner.run(run_id)
    assert (run.status, run.stop_reason) == ("failed", "error")
    world.registry.failure = None
    await world.send("again")


async def test_a_cancelled_run_ends_at_once_and_frees_the_conversation(world: World) -> None:
    world.model.gate.clear()
    run_id = await world.submit("hello")
    await asyncio.sleep(0.05)
    assert await world.runner.cancel(run_id) == "cancelled"
    assert (await world.runner.run(run_id)).status == "cancelled"
    world.model.gate.set()
    assert type((await world.send("again"))[0]) is Said
    assert await world.runner.cancel(run_id) == "ended"


async def test_a_queued_run_can_be_cancelled(world: World) -> None:
    world.model.gate.clear()
    first = await world.submit("first")
    second = await world.submit("second")
    await world.runner.cancel(second)
    world.model.gate.set()
    await world.events(first)
    assert (await world.runner.run(second)).status == "cancelled"
    await world.send("third")
    assert [line for line in await world.history() if line.startswith("user")] == ["user: first", "user: third"]


async def test_a_run_whose_worker_is_gone_goes_on_elsewhere(world: World, store: SqliteStore) -> None:
    world.model.answers = [insert("once"), "never heard"]
    model_reached = asyncio.Event()

    async def stop_here() -> None:
        if len(world.model.prompts) == 2:
            model_reached.set()
            await asyncio.sleep(60)

    world.model.during = stop_here
    run_id = await world.submit("hello")
    await model_reached.wait()
    for job in list(world.runner._jobs.values()):
        assert job.task is not None
        world.runner._stopping = True
        job.task.cancel()
    world.model.during = None
    await asyncio.sleep(0)

    def expire() -> Any:
        from perdure.store.base import Built

        yield Built("UPDATE conversations SET lease_until_us = 1", {})

    await store.write(expire)
    other = Runner(store, world.registry, None)  # type: ignore[arg-type]
    await other.start()
    found: list[Event] = []
    async for _, batch in other.follow(run_id):
        found.extend(batch)
    await other.stop()
    assert (await other.run(run_id)).status == "completed"
    assert (await world.block()).value == "Ada\nonce"
    assert await world.history() == ["user: hello", "assistant: ['memory_insert']", "tool: []", "assistant: ok"]


async def test_a_message_that_comes_during_the_last_commit_sees_what_it_follows(
    world: World, store: SqliteStore
) -> None:
    """The conversation is free as soon as the last step is written, a moment before that step is in the kept context."""
    write = store.write

    async def told_late(tx: Any, **more: Any) -> Any:
        written = await write(tx, **more)
        await asyncio.sleep(0.02)
        return written

    async def look() -> None:
        asked.append([message.role for message in world.model.prompts[-1].messages])

    asked: list[list[str]] = []
    world.model.during = look
    store.write = told_late  # type: ignore[method-assign]
    runs: list[str] = []
    for number in range(4):
        runs.append(await world.submit(f"m{number}"))
        while await store.read(lambda: active_runs(conversation_id=world.agent.id)):
            await asyncio.sleep(0)
    for run_id in runs:
        await world.events(run_id)
    assert asked == [["user", "assistant"] * number + ["user"] for number in range(4)]


async def test_a_cancellation_during_a_commit_waits_for_it(world: World, store: SqliteStore) -> None:
    """However often it is asked for."""
    world.model.answers = [insert("x")]
    write, reached = store.write, asyncio.Event()

    async def slow(tx: Any, **more: Any) -> Any:
        reached.set()
        await asyncio.sleep(0.02)
        return await write(tx, **more)

    run_id = await world.submit("hello")
    store.write = slow  # type: ignore[method-assign]
    await reached.wait()
    job = world.runner._jobs[run_id]
    assert job.task is not None
    job.cancelled = True
    for _ in range(3):
        job.task.cancel()
        await asyncio.sleep(0.002)
    await asyncio.wait([job.task])
    assert (await world.runner.run(run_id)).status == "cancelled"
    assert await world.history() == ["user: hello", "assistant: ['memory_insert']", "tool: []"]


async def test_who_follows_a_run_that_another_process_drives_is_kept_awake(world: World, store: SqliteStore) -> None:
    world.model.gate.clear()
    run_id = await world.submit("hello")
    other = Runner(store, world.registry, None)  # type: ignore[arg-type]
    batches: list[tuple[int, list[Event]]] = []
    async for batch in other.follow(run_id, idle_s=0.01):
        batches.append(batch)
        if len(batches) == 2:
            world.model.gate.set()
    assert batches[:2] == [(1, []), (1, [])]
    assert [type(event) for _, events in batches for event in events] == [Said, RunStopped, UsageReported, LogEnded]


async def test_what_waits_for_a_busy_conversation_is_driven_without_anybody_looking(world: World) -> None:
    await world.runner.stop()  # it would look, and take a namesake of its own process for dead
    alone = World(world.store, world.agent)  # its runner is not started: nothing is found by looking
    alone.model.gate.clear()
    try:
        ids = [await alone.submit(f"message {at}") for at in range(5)]
        await alone.runner._claiming.claim(world.agent.id)  # another one that came when it seemed free
        alone.model.gate.set()
        async with asyncio.timeout(30):
            for run_id in ids:
                assert isinstance((await alone.events(run_id))[-1], LogEnded)
    finally:
        await alone.runner.stop()


@pytest.mark.parametrize("late", [False, True], ids=["the-old-worker-ends-first", "the-old-worker-ends-last"])
async def test_a_run_taken_up_again_where_its_old_worker_still_is_ends_once(
    world: World, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """A process that was held up for longer than its lease finds its own run by looking, like anybody's."""
    let_go = asyncio.Event()
    held_up = iter([True])

    async def hold_the_old_one_up() -> None:
        if next(held_up, False):
            await let_go.wait()

    def expire() -> Tx[None]:
        yield Built("UPDATE conversations SET lease_until_us = 1", {})

    if late:
        monkeypatch.setattr("perdure.runs.jobs.LEASE_US", 1)  # how long the new worker waits for the old one
    world.model.during = hold_the_old_one_up
    ends: list[str] = []
    world.runner.observers.append(lambda run, commit: ends.append(run.id) if commit.end is not None else None)
    run_id = await world.submit("hello")
    following = asyncio.ensure_future(world.events(run_id))
    while not world.model.prompts:
        await asyncio.sleep(0)
    old = world.runner._jobs[run_id]
    await store.write(expire)
    await world.runner._claiming.claim(world.agent.id)
    new = world.runner._jobs[run_id]
    assert new is not old and old.task is not None and new.task is not None
    order = [new, old] if late else [old, new]
    if not late:
        let_go.set()
    await asyncio.wait([old.task, new.task], return_when=asyncio.FIRST_COMPLETED)
    assert [job.task.done() for job in order if job.task is not None] == [True, False]
    assert (run_id in world.runner._jobs) is not late, "the one that goes on can be cancelled until it ends"
    let_go.set()
    assert await asyncio.gather(old.task, new.task) == [None, None]
    assert ends == [run_id] and not world.runner._jobs and not world.runner._jobs.newest
    told = [type(event) for event in await following]
    assert told == [type(event) for event in await world.events(run_id)] == [Said, RunStopped, UsageReported, LogEnded]
    assert (await world.runner.run(run_id)).status == "completed"
    await world.send("again")
    assert await world.history() == ["user: hello", "assistant: ok", "user: again", "assistant: ok"]
