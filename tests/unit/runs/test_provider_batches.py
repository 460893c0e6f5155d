"""Model calls through a provider's batches: each is handed in once and answered once, whatever is lost on the way.

A course of the crash test is a function of its seed. PERDURE_PROMISES=long plays a thousand of them, PERDURE_SEED one.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block, Tool
from perdure.core.batches import Batch, BatchItem, BatchRequest
from perdure.core.errors import ProviderError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import RunConfig
from perdure.providers.batches import Ask, Look
from perdure.runs.batches import Batches
from perdure.runs.provider_batches import ProviderBatches
from perdure.runs.runner import Runner
from perdure.store import agents as agent_store
from perdure.store import batch_calls, message_reads
from perdure.store import batches as batch_store
from perdure.store.base import Built, Tx
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.doubles.batch_api import BatchingRegistry, PlayedBatches, completion
from tests.unit.runs.test_crash_everywhere import DyingStore

ONE = os.environ.get("PERDURE_SEED")
SEEDS = [int(ONE)] if ONE else range(1000 if os.environ.get("PERDURE_PROMISES") == "long" else 40)
ROUNDS = 2


def noting(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Notes something in each round but the last, as a function of what the model is shown."""
    roles = [message["role"] for message in body["messages"]]
    done = roles[::-1].index("user") // 2
    if done < ROUNDS - 1:
        arguments = {"label": "human", "new_string": f"fact {done}"}
        return 200, completion("", (f"call_{done}", "memory_insert", arguments))
    return 200, completion(f"Noted {done}.")


class Provided:
    """Agents, and a server's parts that work off batches for them; poked instead of waited for."""

    def __init__(self, store: SqliteStore, api: PlayedBatches, agents: list[str]) -> None:
        self.store = store
        self.api = api
        self.agents = agents
        self.registry = BatchingRegistry(api)

    async def start(self, store: Any = None, *, gather_s: float = 60.0) -> tuple[Runner, Batches]:
        used = store or self.store
        runner = Runner(used, self.registry, None)  # type: ignore[arg-type]
        providers = ProviderBatches(used, self.registry, runner.owner, poll_s=0.000001, gather_s=gather_s)  # type: ignore[arg-type]
        batches = Batches(used, runner, providers, at_once=8)
        runner.observers.append(batches.committed)
        await batches.start()
        return runner, batches

    async def hand_in(self, words: list[str], *, strict: bool = False) -> str:
        now = now_us()
        via: Any = "provider" if strict else "auto"
        batch = Batch(id=new_id("job"), status="running", created_us=now, updated_us=now, via=via)
        requests = [
            BatchRequest(
                agent_id=self.agents[at % len(self.agents)],
                inputs=(_said(self.agents[at % len(self.agents)], word),),
                config=RunConfig(background=True, include_pings=False),
            )
            for at, word in enumerate(words)
        ]
        await self.store.write(lambda: batch_store.create_batch(batch, requests))
        return batch.id

    async def until(self, batches: Batches, done: Callable[[], Any]) -> None:
        """Poke the batches until something is so. It is a matter of steps, not of time; the limit is for a test that fails."""
        async with asyncio.timeout(60):
            while not await done():
                batches.wake()
                await asyncio.sleep(0)

    async def ended(self, batches: Batches, batch_id: str) -> list[BatchItem]:
        async def done() -> bool:
            counts = await self.store.read(lambda: batch_store.count_items(batch_id))
            return not counts["waiting"] and not counts["running"]

        await self.until(batches, done)
        return await self.store.read(lambda: batch_store.items_of_batch(batch_id))

    async def history(self, agent_id: str) -> list[str]:
        found = await self.store.scan(lambda: message_reads.list_messages(agent_id=agent_id, limit=None))
        return [f"{m.role}: {m.text}" if m.text else m.role for m in found[1:]]


def _said(agent_id: str, word: str) -> Message:
    return Message(
        id=new_id("message"),
        role="user",
        created_us=now_us(),
        content=(TextPart(word),),
        agent_id=agent_id,
        conversation_id=agent_id,
    )


async def provided(store: SqliteStore, api: PlayedBatches, agents: int = 2) -> Provided:
    await ensure_builtin_tools(store)
    memory = await store.read(lambda: find_tool("memory_insert"))
    assert memory is not None
    return Provided(store, api, [await _agent(store, memory) for _ in range(agents)])


async def _agent(store: SqliteStore, memory: Tool) -> str:
    now = now_us()
    agent = Agent(id=new_id("agent"), name="test", system="You are a test.", model="m", created_us=now, updated_us=now)
    block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
    bundle = AgentBundle(agent=agent, blocks=(block,), tools=(memory,))
    system = first_system_message(bundle)
    await store.write(lambda: agent_store.create_agent(bundle, new_blocks=[block.id], system_message=system))
    return agent.id


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[Provided]:
    yield await provided(store, PlayedBatches(noting))


TURN = ["user: go", "assistant", "tool", "assistant: Noted 1."]


async def test_the_calls_of_a_round_go_in_one_batch_and_the_runs_take_no_place_meanwhile(world: Provided) -> None:
    world.api.looks = [Look(state="going")] * 3
    runner, batches = await world.start()
    batch_id = await world.hand_in(["go", "go"])

    async def parked() -> bool:
        return bool(world.api.made) and not runner.active

    await world.until(batches, parked)
    assert [len(asks) for asks in world.api.made.values()] == [2]
    items = await world.ended(batches, batch_id)
    assert [item.status for item in items] == ["completed", "completed"]
    assert [len(asks) for asks in world.api.made.values()] == [2, 2]
    for agent_id in world.agents:
        assert await world.history(agent_id) == TURN
    run = await runner.run(items[0].run_id or "")
    assert (run.step_count, run.usage.total_tokens) == (2, 30)
    await batches.stop()
    await runner.stop()


async def test_more_calls_than_a_batch_may_have_go_in_several(store: SqliteStore) -> None:
    world = await provided(store, PlayedBatches(noting, requests=2), agents=5)
    runner, batches = await world.start()
    await world.ended(batches, await world.hand_in(["go"] * 5))
    assert sorted(len(asks) for asks in world.api.made.values()) == [1, 1, 2, 2, 2, 2]
    assert set(world.api.calls.values()) == {1}
    await batches.stop()
    await runner.stop()


async def test_an_agents_requests_are_answered_in_their_order(store: SqliteStore) -> None:
    world = await provided(
        store, PlayedBatches(lambda body: (200, completion(body["messages"][-1]["content"]))), agents=1
    )
    runner, batches = await world.start()
    await world.ended(batches, await world.hand_in(["a", "b", "c"]))
    expected = [line for word in "abc" for line in (f"user: {word}", f"assistant: {word}")]
    assert await world.history(world.agents[0]) == expected
    await batches.stop()
    await runner.stop()


async def test_a_batch_that_was_made_without_our_hearing_of_it_is_found(world: Provided) -> None:
    world.api.failures = [ProviderError("The connection broke.", kind="llm_connection")]
    runner, batches = await world.start()
    items = await world.ended(batches, await world.hand_in(["go", "go"]))
    assert [item.status for item in items] == ["completed", "completed"]
    assert set(world.api.calls.values()) == {1}
    await batches.stop()
    await runner.stop()


async def test_a_provider_that_is_overloaded_is_asked_again(world: Provided) -> None:
    busy = ProviderError("Later.", kind="llm_overloaded", status=503, retryable=True)
    world.api.failures = [busy, ProviderError("Too many.", kind="llm_rate_limit", status=429)]
    runner, batches = await world.start()
    items = await world.ended(batches, await world.hand_in(["go"]))
    assert [item.status for item in items] == ["completed"]
    assert set(world.api.calls.values()) == {1}
    await batches.stop()
    await runner.stop()


async def test_a_wait_that_the_provider_asks_for_is_kept(world: Provided) -> None:
    slower = ProviderError("Later.", kind="llm_rate_limit", status=429, retry_after_s=3600.0)
    world.api.failures = [slower]
    runner, batches = await world.start()
    batch_id = await world.hand_in(["go"])

    async def refused() -> bool:
        return not world.api.failures

    await world.until(batches, refused)
    await asyncio.wait(list(batches._providers._tasks.values()) or [asyncio.create_task(asyncio.sleep(0))])
    now = now_us()
    assert await world.store.read(lambda: batch_calls.due_provider_batches(now + 3_500_000_000)) == []
    (due,) = await world.store.read(lambda: batch_calls.due_provider_batches(now + 3_700_000_000))
    assert due.group.batch_id == batch_id
    await batches.stop()
    await runner.stop()


async def test_a_full_queue_at_the_provider_only_puts_a_batch_off(world: Provided) -> None:
    world.api.looks = [Look(state="failed", error="Enqueued token limit reached.", busy=True)]
    runner, batches = await world.start()
    items = await world.ended(batches, await world.hand_in(["go", "go"], strict=True))
    assert [item.status for item in items] == ["completed", "completed"]
    await batches.stop()
    await runner.stop()


async def test_a_batch_that_is_not_accepted_fails_its_requests_with_the_providers_reason(world: Provided) -> None:
    world.api.looks = [Look(state="failed", error="This model is not offered in batches.")]
    runner, batches = await world.start()
    (item,) = await world.ended(batches, await world.hand_in(["go"], strict=True))
    assert item.status == "failed" and "not offered in batches" in (item.error or "")
    await batches.stop()
    await runner.stop()


async def test_a_provider_that_is_not_configured_any_more_fails_what_waits_for_it(world: Provided) -> None:
    world.api.looks = [Look(state="going")]
    runner, batches = await world.start()
    batch_id = await world.hand_in(["go"], strict=True)

    async def made() -> bool:
        return bool(world.api.made)

    await world.until(batches, made)
    world.registry.api = None
    (item,) = await world.ended(batches, batch_id)
    assert item.status == "failed" and "not configured any more" in (item.error or "")
    await batches.stop()
    await runner.stop()


async def test_a_batch_that_only_looks_like_it_is_put_aside(store: SqliteStore) -> None:
    world = await provided(store, PlayedBatches(noting, marked=False), agents=1)
    world.api.made["somebody else's"] = [Ask("not ours", b'{"messages": [{"role": "user", "content": "hers"}]}')]
    world.api._marks["somebody else's"] = ""
    world.api.failures = [ProviderError("Overloaded.", kind="llm_overloaded", status=529, retryable=True)]
    runner, batches = await world.start()
    (item,) = await world.ended(batches, await world.hand_in(["go"]))
    assert item.status == "completed"
    assert set(world.api.calls.values()) == {1}
    assert world.api.cancelled == []
    await batches.stop()
    await runner.stop()


def too_long_with(word: str) -> Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]:
    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if word in str(body["messages"]):
            return 400, {"error": {"message": "Too long.", "code": "context_length_exceeded"}}
        return 200, completion("Yes.")

    return answer


async def test_a_prompt_that_is_too_long_is_compacted_once_and_goes_with_the_next_batch(store: SqliteStore) -> None:
    world = await provided(store, PlayedBatches(lambda body: (200, completion("Yes."))), agents=1)
    runner, batches = await world.start()
    await world.ended(batches, await world.hand_in(["alpha", "beta", "gamma"]))
    world.api._answer = too_long_with("alpha")
    world.registry.model.default = "They talked."
    (item,) = await world.ended(batches, await world.hand_in(["omega"]))
    assert item.status == "completed", item.error
    assert len(world.registry.model.prompts) == 1  # the summary was asked for once
    assert world.api.asked == 3 + 2
    assert (await world.history(world.agents[0]))[-1] == "assistant: Yes."
    await batches.stop()
    await runner.stop()


async def test_a_prompt_that_stays_too_long_ends_its_run(store: SqliteStore) -> None:
    world = await provided(store, PlayedBatches(lambda body: (200, completion("Yes."))), agents=1)
    runner, batches = await world.start()
    await world.ended(batches, await world.hand_in(["alpha", "beta", "gamma"]))
    world.api._answer = too_long_with("role")
    world.registry.model.default = "They talked."
    (item,) = await world.ended(batches, await world.hand_in(["omega"]))
    assert item.status == "failed"
    assert "Too long." in (item.error or "")
    assert world.api.asked <= 3 + 4
    await batches.stop()
    await runner.stop()


async def test_an_answer_that_nobody_can_read_is_asked_for_again(world: Provided) -> None:
    spoiled = [ValueError("not what was agreed on")]

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if spoiled:
            raise spoiled.pop()
        return noting(body)

    world.api._answer = answer
    runner, batches = await world.start()
    (item,) = await world.ended(batches, await world.hand_in(["go"]))
    assert item.status == "completed"
    assert set(world.api.calls.values()) == {1}
    await batches.stop()
    await runner.stop()


async def test_runs_that_are_cancelled_call_their_batch_off_once_nobody_waits_for_it(world: Provided) -> None:
    world.api.looks = [Look(state="going")] * 10_000
    runner, batches = await world.start()
    await runner.start()
    batch_id = await world.hand_in(["go", "go"])

    async def parked() -> bool:
        return bool(world.api.made) and not runner.active

    await world.until(batches, parked)
    first, second = await world.store.read(lambda: batch_store.items_of_batch(batch_id))
    assert await runner.cancel(first.run_id or "") == "cancelled"
    for _ in range(50):
        batches.wake()
        await asyncio.sleep(0)
    assert world.api.cancelled == []
    await batches.cancel(batch_id)

    async def called_off() -> bool:
        return bool(world.api.cancelled)

    await world.until(batches, called_off)
    items = await world.ended(batches, batch_id)
    assert [item.status for item in items] == ["cancelled", "cancelled"]
    assert world.api.cancelled == ["remote-0"]
    assert second.run_id is not None
    await batches.stop()
    await runner.stop()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_server_may_be_lost_at_any_write(seed: int, tmp_path: Path, empty_database: bytes) -> None:
    rng = random.Random(seed)
    path = tmp_path / "perdure.db"
    path.write_bytes(empty_database)
    store = SqliteStore(path, synchronous="OFF")
    world = await provided(store, PlayedBatches(noting, marked=rng.random() < 0.7))
    if rng.random() < 0.3:
        world.api.failures = [ProviderError("The connection broke.", kind="llm_connection")]
    batch_id = await world.hand_in(["go"] * 3)
    dying = DyingStore(store, rng.randrange(1, 60), written=rng.random() < 0.5)
    first, working = await world.start(dying)
    try:

        async def lost_or_done() -> bool:
            counts = await store.read(lambda: batch_store.count_items(batch_id))
            return dying.lost.is_set() or (not counts["waiting"] and not counts["running"])

        await world.until(working, lost_or_done)
        await store.write(_expire)
        other, batches = await world.start()
        await other.start()
        items = await world.ended(batches, batch_id)
        assert [item.status for item in items] == ["completed"] * 3
        assert [await world.history(agent) for agent in world.agents] == [TURN * 2, TURN]
        assert set(world.api.calls.values()) == {1}, "a call was handed in twice"
        assert sum(world.api.calls.values()) == 3 * ROUNDS, "a call that was answered was made again"
        for item in items:
            run = await other.run(item.run_id or "")
            assert (run.step_count, run.usage.total_tokens) == (ROUNDS, 15 * ROUNDS)
        await batches.stop()
        await other.stop()
    finally:
        dying.gone.set()
        first._stopping = True
        await working.stop()
        await asyncio.gather(*(job.task for job in list(first._jobs.values()) if job.task), return_exceptions=True)
        await store.close()


def _expire() -> Tx[None]:
    yield Built("UPDATE conversations SET lease_until_us = 1 WHERE lease_owner <> 'at the provider'", {})
    yield Built("DELETE FROM leases", {})
