"""Providers' limits over the processes of one database: each with a store, a listener and gates of its own."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.providers.limits import Gate, Limits
from perdure.runs.shared_limits import SharedLimits
from perdure.store.postgres import PostgresStore
from tests.doubles.postgres import PostgresProcess


class Provider:
    """What is asked of it, by whoever goes through a gate."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.calls: dict[int, int] = {}

    async def call(self, who: int, gate: Gate, tokens: int = 10) -> None:
        reserved = await gate.enter(f"agent-{who}")
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.calls[who] = self.calls.get(who, 0) + 1
        self.now -= 1
        gate.leave(reserved, tokens)


class Process:
    def __init__(self, url: str) -> None:
        self.store = PostgresStore(url, pool_size=2)
        self.limits = SharedLimits(self.store)

    async def close(self) -> None:
        await self.limits.stop()
        await self.store.close()

    async def die(self) -> None:
        """Without a word to the others."""
        assert self.limits._task is not None
        self.limits._task.cancel()
        await asyncio.gather(self.limits._task, return_exceptions=True)
        self.limits._task = None


@pytest.fixture
async def processes(postgres: PostgresProcess) -> AsyncIterator[list[Process]]:
    url = await asyncio.to_thread(postgres.fresh)
    made = [Process(url) for _ in range(3)]
    for process in made:
        await process.limits.start()
    yield made
    for process in made:
        await process.close()


async def test_no_more_calls_at_once_than_allowed_and_all_are_made(processes: list[Process]) -> None:
    provider = Provider()
    gates = [process.limits.gate("openai", Limits(concurrent=4)) for process in processes]
    async with asyncio.timeout(60):
        await asyncio.gather(*(provider.call(at % 3, gates[at % 3]) for at in range(120)))
    assert provider.most <= 4
    assert provider.calls == {0: 40, 1: 40, 2: 40}


async def test_one_place_goes_round(processes: list[Process]) -> None:
    provider = Provider()
    gates = [process.limits.gate("openai", Limits(concurrent=1)) for process in processes]
    async with asyncio.timeout(60):
        await asyncio.gather(*(provider.call(at % 3, gates[at % 3]) for at in range(9)))
    assert provider.most == 1 and provider.calls == {0: 3, 1: 3, 2: 3}


async def test_no_more_calls_in_a_minute_than_allowed(processes: list[Process]) -> None:
    provider = Provider()
    gates = [process.limits.gate("openai", Limits(requests_per_minute=10)) for process in processes]
    async with asyncio.timeout(30):
        await asyncio.gather(*(provider.call(at, gates[at]) for at in (0, 1, 2)))
    calls = [asyncio.create_task(provider.call(at % 3, gates[at % 3])) for at in range(30)]
    async with asyncio.timeout(30):
        while sum(provider.calls.values()) < 10:
            await asyncio.sleep(0.01)
    for process in processes:  # whatever they are told now, nothing more is to be had
        await process.limits._sync()
    assert sum(provider.calls.values()) == 10
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_what_a_stopped_process_had_is_there_at_once(processes: list[Process]) -> None:
    first, second, _ = processes
    gates = [process.limits.gate("openai", Limits(concurrent=2)) for process in (first, second)]
    for _ in range(2):
        gates[0].leave(await gates[0].enter("a"), 1)
    await first.limits.stop()
    async with asyncio.timeout(3):  # its lease would have lasted for longer
        await gates[1].enter("b")
        await gates[1].enter("b")


async def test_what_a_dead_process_had_is_there_after_its_lease(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.providers.shares.LEASE_US", 1_500_000)
    first, second, _ = processes
    gates = [process.limits.gate("openai", Limits(concurrent=2)) for process in (first, second)]
    await gates[0].enter("a")
    await gates[0].enter("a")
    await first.die()
    async with asyncio.timeout(20):
        await gates[1].enter("b")
        await gates[1].enter("b")


async def test_without_gates_nothing_is_asked_of_the_database(processes: list[Process]) -> None:
    first = processes[0]
    first.limits.gate("local", Limits())
    before = first.store.work.statements
    first.limits._look(True)
    async with asyncio.timeout(10):
        while first.limits._wake.is_set():
            await asyncio.sleep(0.005)
    assert first.store.work.statements == before
