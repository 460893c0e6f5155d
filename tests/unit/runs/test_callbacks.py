"""Callbacks are delivered beside each other: bounded per host, and one that does not answer holds up no other host's."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import cast
from urllib.parse import urlsplit

import msgspec
import pytest

from perdure.core.runs import RunConfig
from perdure.providers.web import Web
from perdure.runs.callbacks import AT_ONCE, PER_HOST, Callbacks
from perdure.store.base import Query, Tx
from perdure.store.callbacks import add_callback, callback_of_run
from perdure.store.sqlite import SqliteStore


class FakeWeb:
    """Answers 200, but for the hosts in `stuck` only once they are let go."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.stuck: dict[str, asyncio.Event] = {}
        self.open: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        host = urlsplit(url).netloc
        self.open[host] += 1
        self.most[host] = max(self.most[host], self.open[host])
        if host in self.stuck:
            await self.stuck[host].wait()
        await asyncio.sleep(0)
        self.open[host] -= 1
        self.told.put_nowait(msgspec.json.decode(body)["run_id"])
        return 200


@pytest.fixture
def web() -> FakeWeb:
    return FakeWeb()


@pytest.fixture
async def deliver(store: SqliteStore, web: FakeWeb) -> AsyncIterator[Callable[[], None]]:
    """Begin to deliver, until the test ends."""
    tasks: list[asyncio.Task[None]] = []
    yield lambda: tasks.append(asyncio.create_task(Callbacks(store, cast(Web, web)).deliver()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def add(store: SqliteStore, run_id: str, host: str, at: int, *, status: str = "completed") -> None:
    row = {"agent_id": "a", "conversation_id": "a", "background": 1, "created_us": at, "attempts": 1, "metadata": None}
    config = msgspec.json.encode(RunConfig())

    def tx() -> Tx[None]:
        yield Query("insert_run", {"id": run_id, "status": status, "config": config, "input": b"[]", **row})
        yield from add_callback(run_id, f"http://{host}/", at)

    await store.write(tx)


async def told(web: FakeWeb, many: int) -> set[str]:
    return {await asyncio.wait_for(web.told.get(), 20) for _ in range(many)}


async def test_a_receiver_that_does_not_answer_holds_up_no_other(
    store: SqliteStore, web: FakeWeb, deliver: Callable[[], None]
) -> None:
    web.stuck["slow"] = asyncio.Event()
    slow = {f"run-slow-{n}" for n in range(2 * PER_HOST)}
    for run_id in slow:
        await add(store, run_id, "slow", 1)
    await add(store, "run-quick", "quick", 2)
    deliver()
    assert await told(web, 1) == {"run-quick"}
    assert web.open["slow"] == PER_HOST
    web.stuck["slow"].set()
    assert await told(web, len(slow)) == slow
    assert web.most["slow"] == PER_HOST


async def test_many_that_wait_for_one_host_hide_no_other(
    store: SqliteStore, web: FakeWeb, deliver: Callable[[], None]
) -> None:
    web.stuck["slow"] = asyncio.Event()
    for n in range(130):
        await add(store, f"run-slow-{n:03}", "slow", 1)
    await add(store, "run-quick", "quick", 2)
    deliver()
    assert await told(web, 1) == {"run-quick"}


async def test_so_many_at_once_and_each_once(store: SqliteStore, web: FakeWeb, deliver: Callable[[], None]) -> None:
    wanted: set[str] = set()
    for n in range(3 * AT_ONCE):
        await add(store, f"run-{n}", f"host-{n}", n)
        wanted.add(f"run-{n}")
    deliver()
    assert await told(web, len(wanted)) == wanted
    assert web.told.empty()


async def test_what_has_not_ended_is_not_told_and_what_is_gone_is_forgotten(
    store: SqliteStore, web: FakeWeb, deliver: Callable[[], None]
) -> None:
    await add(store, "run-going", "quick", 1, status="running")
    await store.write(lambda: add_callback("run-gone", "http://quick/", 1))
    await add(store, "run-ended", "quick", 2)
    deliver()
    assert await told(web, 1) == {"run-ended"}
    for _ in range(200):
        if await store.read(lambda: callback_of_run("run-gone")) is None:
            break
        await asyncio.sleep(0.01)
    assert await store.read(lambda: callback_of_run("run-gone")) is None
    assert web.told.empty()
