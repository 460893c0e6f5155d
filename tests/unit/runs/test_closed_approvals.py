"""An approval that was given and could not be carried out to its end: what the run stores of it, its event stream tells."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from perdure.core.errors import NotFound
from perdure.core.events import Event, RunStopped, ToolsReturned
from perdure.core.expand import expand
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Approval, Message, TextPart
from perdure.core.runs import Run, RunConfig
from perdure.runs.runner import Runner
from perdure.store import agents
from perdure.store.base import Built, Tx
from perdure.store.sqlite import SqliteStore
from tests.unit.runs.test_interrupted_steps import Sandboxes, calling, crash, finished, messages, new_world, returns
from tests.unit.runs.test_runner import World

RULES = ({"type": "requires_approval", "tool_name": "log", "prompt_template": None},)


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[World]:
    """Its agent waits for approval of a call of `log`, which would never end; `pay` stands before it."""
    made = await new_world(store)
    guarded = msgspec.structs.replace(made.agent, tool_rules=RULES)
    await store.write(lambda: agents.replace_agent(guarded))
    await made.runner.start()
    sandbox: Sandboxes = made.sandbox  # type: ignore[attr-defined]
    sandbox.hang = {"log"}
    made.model.answers = [calling("pay", "log")]
    asked = await made.send("pay and log")
    assert RunStopped("requires_approval") in asked and sandbox.ran == []
    yield made
    made.model.gate.set()
    await made.runner.stop(grace_s=0)


async def approve(world: World, *, follow: bool = False) -> str:
    now, agent_id = now_us(), world.agent.id
    run = Run(
        id=new_id("run"),
        agent_id=agent_id,
        conversation_id=agent_id,
        status="created",
        created_us=now,
        config=RunConfig(include_pings=False, streaming=True),
        background=True,
    )
    common = {"created_us": now, "agent_id": agent_id, "conversation_id": agent_id, "run_id": run.id}
    inputs = [Message(id=new_id("message"), role="approval", approvals=(Approval("call_1", True),), **common)]
    if follow:
        inputs.append(Message(id=new_id("message"), role="user", content=(TextPart("and then?"),), **common))
    submitted = await world.runner.submit(run, tuple(inputs), (), wait=True)
    await submitted.durable
    return submitted.run_id


async def until_it_hangs(world: World) -> None:
    sandbox: Sandboxes = world.sandbox  # type: ignore[attr-defined]
    while "log" not in sandbox.ran:
        sandbox.begun.clear()
        await sandbox.begun.wait()


async def check_what_was_told(world: World, runner: Runner, run_id: str, stop: str) -> list[Event]:
    """The run told of the message that closed the calls, as a listing shows it, before it stopped; also who looks later."""
    events = await finished(runner, run_id)
    closed = [message for message in await messages(world) if message.role == "tool"]
    assert len(closed) == 1 and closed[0].run_id == run_id
    assert [each.tool_call_id for each in closed[0].tool_returns] == ["call_0", "call_1"]
    at = events.index(RunStopped(stop))  # type: ignore[arg-type]
    assert events[at - 1 : at] == expand(closed[0])
    assert sum(isinstance(event, ToolsReturned) for event in events) == 1
    stored = Runner(world.store, world.registry, None)  # type: ignore[arg-type]
    assert await finished(stored, run_id) == events
    return events


async def check_that_it_goes_on(world: World, runner: Runner) -> None:
    world.runner, world.registry.failure = runner, None
    await world.send("again")
    assert [message.role for message in world.model.prompts[-1].messages][:3] == ["user", "assistant", "tool"]


async def test_a_cancelled_answer_tells_how_its_calls_ended(world: World) -> None:
    """What had come to its end before is told as it was."""
    run_id = await approve(world, follow=True)
    await until_it_hangs(world)
    await world.runner.cancel(run_id)
    await check_what_was_told(world, world.runner, run_id, "cancelled")
    told = await returns(world)
    assert told["pay"] == "pay did it" and "interrupted" in told["log"]
    assert [m.role for m in await messages(world)] == ["user", "assistant", "approval", "approval", "tool", "user"]
    await check_that_it_goes_on(world, world.runner)


async def test_an_answer_that_fails_tells_how_its_calls_ended(world: World) -> None:
    world.registry.failure = NotFound("no such model")
    run_id = await approve(world)
    await check_what_was_told(world, world.runner, run_id, "error")
    await check_that_it_goes_on(world, world.runner)


async def test_an_answer_that_is_given_up_tells_how_its_calls_ended(world: World) -> None:
    run_id = await approve(world)
    await until_it_hangs(world)

    def worn_out() -> Tx[None]:
        yield Built("UPDATE runs SET attempts = 5 WHERE status = 'running'", {})

    await world.store.write(worn_out)
    other = await crash(world)
    try:
        await check_what_was_told(world, other, run_id, "error")
        assert (await other.run(run_id)).status == "failed"
        await check_that_it_goes_on(world, other)
    finally:
        await other.stop()
