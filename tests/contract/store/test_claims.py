"""Which waiting run is taken up next, on every store: agents in turn, one winner a run, nothing lost."""

import asyncio

from perdure.core.agents import Agent, AgentBundle
from perdure.core.conversations import Conversation
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import Run, RunConfig, Usage
from perdure.store import agents
from perdure.store.base import Store
from perdure.store.commits import RunEnd, StepCommit, commit_step
from perdure.store.conversations import create_conversation
from perdure.store.runs import count_waiting, hand_over, orphaned_conversations
from perdure.store.submissions import Accepted, claim_next, submit_run

LATER = 8_000_000


async def an_agent(store: Store, conversations: int) -> list[str]:
    """The ids of its conversations; the first is its own."""
    now = now_us()
    agent = Agent(id=new_id("agent"), name="test", system="A test.", model="m", created_us=now, updated_us=now)
    system = said(agent.id, agent.id, "system")
    await store.write(lambda: agents.create_agent(AgentBundle(agent=agent), new_blocks=[], system_message=system))
    found = [agent.id]
    for _ in range(conversations - 1):
        made = Conversation(id=new_id("conv"), agent_id=agent.id, created_us=now, updated_us=now)
        first = said(agent.id, made.id, "system")
        await store.write(lambda made=made, first=first: create_conversation(made, first, 1))
        found.append(made.id)
    return found


def said(agent_id: str, conversation_id: str, role: str = "user") -> Message:
    return Message(
        id=new_id("message"),
        role=role,  # type: ignore[arg-type]
        created_us=now_us(),
        content=(TextPart("hello"),),
        agent_id=agent_id,
        conversation_id=conversation_id,
    )


async def queue(store: Store, agent_id: str, conversation_id: str, *, start: bool = False) -> str:
    """`start`: it would begin at once if nothing else were to come first."""
    run = Run(
        id=new_id("run"),
        agent_id=agent_id,
        conversation_id=conversation_id,
        status="created",
        created_us=now_us(),
        config=RunConfig(),
    )
    message = said(agent_id, conversation_id)
    accepted = await store.write(
        lambda: submit_run(run, (message,), otids=(), owner="", until=0, wait=True, max_queued=100, start=start)
    )
    assert accepted.lease is None
    return run.id


async def claim(store: Store, conversation_id: str, owner: str) -> Accepted | None:
    now = now_us()
    return await store.write(
        lambda: claim_next(conversation_id, owner=owner, until=now + LATER, now=now, patient=False)
    )


async def test_agents_take_turns_and_those_with_least_under_way_come_first(store: Store) -> None:
    greedy, modest = await an_agent(store, 4), await an_agent(store, 2)
    for conversation_id in greedy:
        await queue(store, greedy[0], conversation_id)
    for conversation_id in modest:
        await queue(store, modest[0], conversation_id)
    assert await store.read(count_waiting) == 6
    first = await store.scan(lambda: orphaned_conversations(now_us()))
    assert first == [greedy[0], modest[0], greedy[1], modest[1], greedy[2], greedy[3]]
    assert await store.scan(lambda: orphaned_conversations(now_us(), limit=2)) == first[:2]
    for conversation_id in greedy[:2]:
        assert await claim(store, conversation_id, "one") is not None
    assert await store.read(count_waiting) == 4
    left = await store.scan(lambda: orphaned_conversations(now_us()))
    assert left == [modest[0], modest[1], greedy[2], greedy[3]]


async def test_whoever_was_served_last_lets_others_go_first(store: Store) -> None:
    greedy, modest = await an_agent(store, 3), await an_agent(store, 1)
    for conversation_id in (*greedy, *modest):
        await queue(store, greedy[0] if conversation_id in greedy else modest[0], conversation_id)
    accepted = await claim(store, greedy[0], "one")
    assert accepted is not None and accepted.lease is not None
    end = RunEnd(status="completed", stop_reason="end_turn", completed_us=now_us(), total_duration_ns=1)
    commit = StepCommit(lease=accepted.lease, agent_id=greedy[0], now=now_us(), usage=Usage(), step_count=1, end=end)
    await store.write(lambda: commit_step(commit))
    left = await store.scan(lambda: orphaned_conversations(now_us()))
    assert left == [modest[0], greedy[1], greedy[2]]


async def test_each_waiting_run_is_claimed_by_one_of_many_workers(store: Store) -> None:
    ids = await an_agent(store, 12)
    runs = {await queue(store, ids[0], conversation_id) for conversation_id in ids}

    async def work(owner: str) -> list[str]:
        won: list[str] = []
        while waiting := await store.scan(lambda: orphaned_conversations(now_us())):
            for conversation_id in waiting:
                if (accepted := await claim(store, conversation_id, owner)) is not None:
                    won.append(accepted.run_id)
        return won

    claimed = [id for won in await asyncio.gather(*(work(f"worker-{n}") for n in range(4))) for id in won]
    assert len(claimed) == len(runs) and set(claimed) == runs


async def test_a_run_that_was_handed_over_is_taken_up_at_once(store: Store) -> None:
    (conversation_id,) = await an_agent(store, 1)
    run_id = await queue(store, conversation_id, conversation_id)
    accepted = await claim(store, conversation_id, "one")
    assert accepted is not None and accepted.lease is not None
    assert await claim(store, conversation_id, "two") is None
    lease = accepted.lease
    await store.write(lambda: hand_over(lease))
    assert await store.scan(lambda: orphaned_conversations(now_us())) == [conversation_id]
    again = await claim(store, conversation_id, "two")
    assert again is not None and again.run_id == run_id
    await store.write(lambda: hand_over(lease))  # the first one's fence is old by now
    assert await claim(store, conversation_id, "three") is None


async def test_a_message_waits_for_the_run_that_a_lost_worker_left(store: Store) -> None:
    """What is left is the older message's: its answer must not come after the newer one."""
    (conversation_id,) = await an_agent(store, 1)
    left = await queue(store, conversation_id, conversation_id)
    now = now_us()
    lost = await store.write(lambda: claim_next(conversation_id, owner="lost", until=now - 1, now=now))
    assert lost is not None and lost.run_id == left
    await asyncio.sleep(0.01)
    newcomer = await queue(store, conversation_id, conversation_id, start=True)
    assert await store.scan(lambda: orphaned_conversations(now_us())) == [conversation_id]
    first = await claim(store, conversation_id, "one")
    assert first is not None and first.lease is not None and first.run_id == left
    end = RunEnd(status="completed", stop_reason="end_turn", completed_us=now_us(), total_duration_ns=1)
    commit = StepCommit(lease=first.lease, agent_id=conversation_id, now=now_us(), usage=Usage(), step_count=1, end=end)
    await store.write(lambda: commit_step(commit))
    second = await claim(store, conversation_id, "one")
    assert second is not None and second.run_id == newcomer
