"""A worker that wakes after its lease has expired and been taken writes nothing, whatever it was about to write.

PERDURE_PROMISES=long: a thousand of them.
"""

import os
from functools import partial
from typing import Any

import msgspec
import pytest

from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block
from perdure.core.begun import Begun
from perdure.core.errors import LeaseLost
from perdure.core.events import LogEnded, RunStopped, TextDelta
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolReturn
from perdure.core.runs import Run, RunConfig, Step, Usage
from perdure.store import agents, begun, events, runs, submissions
from perdure.store.base import Built, Store, Tx
from perdure.store.commits import BlockWrite, RunEnd, StepCommit, commit_step
from perdure.store.runs import Lease

ZOMBIES = 1000 if os.environ.get("PERDURE_PROMISES") == "long" else 20
TABLES = ("runs", "conversations", "messages", "steps", "run_events", "begun_calls", "blocks", "agents")


async def contents(store: Store) -> dict[str, list[Any]]:
    def tx() -> Tx[dict[str, list[Any]]]:
        found: dict[str, list[Any]] = {}
        for name in TABLES:
            rows = yield Built(f"SELECT * FROM {name}", {})
            found[name] = sorted(map(repr, rows))
        return found

    return await store.scan(tx)


def said(agent: Agent, run_id: str, role: Any = "user") -> Message:
    return Message(
        id=new_id("message"),
        role=role,
        created_us=now_us(),
        content=(TextPart("hello"),),
        agent_id=agent.id,
        conversation_id=agent.id,
        run_id=run_id,
    )


async def taken_over(store: Store, agent: Agent) -> Lease:
    """The lease of a worker that has lost it."""
    now = now_us()
    run = Run(
        id=new_id("run"),
        agent_id=agent.id,
        conversation_id=agent.id,
        status="created",
        created_us=now,
        config=RunConfig(),
    )
    accepted = await store.write(
        lambda: submissions.submit_run(
            run, (said(agent, run.id),), otids=(), owner="zombie", until=now - 1, wait=True, max_queued=10
        )
    )
    assert accepted.lease is not None
    claimed = await store.write(
        lambda: submissions.claim_next(agent.id, owner="living", until=now_us() + 10**8, now=now_us())
    )
    assert claimed is not None and claimed.lease is not None and claimed.lease.fence > accepted.lease.fence
    return accepted.lease


def last_step(lease: Lease, agent: Agent, answer: Message, block: Block) -> StepCommit:
    """What ends the run with an answer."""
    step = Step(
        id=new_id("step"),
        run_id=lease.run_id,
        agent_id=agent.id,
        conversation_id=agent.id,
        created_us=now_us(),
        status="success",
    )
    return StepCommit(
        lease=lease,
        agent_id=agent.id,
        now=now_us(),
        usage=Usage(1, 1, 2),
        step_count=1,
        messages=(answer,),
        step=step,
        events=events.chunk(1, [RunStopped("end_turn"), LogEnded()]),
        blocks=(BlockWrite("update", block, block.version),),
        begun=True,
        end=RunEnd(status="completed", stop_reason="end_turn", completed_us=now_us(), total_duration_ns=1),
    )


def writes(lease: Lease, agent: Agent, block: Block) -> dict[str, Any]:
    common = last_step(lease, agent, said(agent, lease.run_id, "assistant"), block)
    step = common.step
    assert step is not None
    delta = TextDelta(message_id="message-1", step_id=step.id, at_us=1, part=0, text="x")
    answer = ToolReturn("call_1", "pay", "success", "paid")
    return {
        "a step": lambda: commit_step(common),
        "a step, again": lambda: commit_step(common, again=True),
        "events": lambda: events.save_events(lease, events.chunk(1, [delta])),
        "events, again": lambda: events.save_events(lease, events.chunk(1, [delta]), again=True),
        "an intent": lambda: begun.keep_intent(lease, Begun(step=step)),
        "a receipt": lambda: begun.keep_receipt(lease, step.id, answer),
        "an answer that broke off": lambda: begun.keep_abandoned(lease, said(agent, lease.run_id, "assistant")),
    }


async def new_agent(store: Store) -> tuple[Agent, Block]:
    now = now_us()
    agent = Agent(id=new_id("agent"), name="z", system="s", model="m", created_us=now, updated_us=now)
    block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
    bundle = AgentBundle(agent=agent, blocks=(block,))
    system = first_system_message(bundle)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=[block.id], system_message=system))
    return agent, block


@pytest.mark.timeout(1800)
async def test_a_zombie_changes_nothing(store: Store) -> None:
    for _ in range(ZOMBIES):
        agent, block = await new_agent(store)
        lease = await taken_over(store, agent)
        before = await contents(store) if ZOMBIES < 100 else {}
        for what, tx in writes(lease, agent, block).items():
            with pytest.raises(LeaseLost):
                await store.write(tx)
                raise AssertionError(f"{what} was written")
        await store.write(partial(runs.renew_leases, [agent.id], "zombie", now_us() + 10**9, now_us()))
        await store.write(partial(runs.hand_over, lease))
        if before:
            assert await contents(store) == before


async def test_events_of_another_worker_are_not_taken_for_a_zombies_own(store: Store) -> None:
    """The answer to its write was lost, and meanwhile another worker has written as many."""
    agent, _ = await new_agent(store)
    lease = await taken_over(store, agent)
    living = msgspec.structs.replace(lease, owner="living", fence=lease.fence + 1)
    delta = TextDelta(message_id="message-1", step_id="step-1", at_us=1, part=0, text="x")
    await store.write(lambda: events.save_events(living, events.chunk(1, [delta, delta])))
    with pytest.raises(LeaseLost):
        await store.write(lambda: events.save_events(lease, events.chunk(1, [delta]), again=True))
    await store.write(lambda: events.save_events(living, events.chunk(1, [delta, delta]), again=True))
    assert len(await store.scan(lambda: events.events_after(lease.run_id, 0))) == 2


async def test_an_answer_kept_as_broken_off_is_not_taken_for_a_zombies_commit_of_it(store: Store) -> None:
    """The answer to its commit was lost, and meanwhile another worker has kept what had been shown, under the same id."""
    agent, block = await new_agent(store)
    lease = await taken_over(store, agent)
    living = msgspec.structs.replace(lease, owner="living", fence=lease.fence + 1)
    answer = said(agent, lease.run_id, "assistant")
    commit = last_step(lease, agent, answer, block)
    part = msgspec.structs.replace(answer, content=(TextPart("hel"),), interrupted="retried")
    await store.write(lambda: begun.keep_abandoned(living, part))
    before = await contents(store)
    with pytest.raises(LeaseLost):
        await store.write(lambda: commit_step(commit, again=True))
    assert await contents(store) == before


async def test_a_step_that_was_committed_is_not_committed_again(store: Store) -> None:
    agent, block = await new_agent(store)
    lease = await taken_over(store, agent)
    living = msgspec.structs.replace(lease, owner="living", fence=lease.fence + 1)
    commit = last_step(living, agent, said(agent, lease.run_id, "assistant"), block)
    await store.write(lambda: commit_step(commit))
    before = await contents(store)
    await store.write(lambda: commit_step(commit, again=True))
    assert await contents(store) == before
