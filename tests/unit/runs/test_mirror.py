"""Runs that other processes drive, followed here: one reader each, no gap, whichever way the events come."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure.core.errors import NotFound
from perdure.core.events import Event, LogEnded, RunStopped, TextDelta
from perdure.core.runs import RunConfig
from perdure.runs.mirror import Mirrors
from perdure.store.base import Query, TxFactory
from perdure.store.commits import EventChunk
from perdure.store.events import chunk


class Database:
    """A run's row and its stored events, as transactions see them. Counts what is asked of it."""

    dialect = "sqlite"

    def __init__(self, *, shared: bool = True) -> None:
        self.signals: Any = type("Signals", (), {"shared": shared})()
        self.chunks: list[EventChunk] = []
        self.status = "running"
        self.asked = 0

    def store(self, *events: Event) -> EventChunk:
        last = self.chunks[-1].last_seq if self.chunks else 0
        self.chunks.append(chunk(last + 1, list(events)))
        return self.chunks[-1]

    async def read(self, tx: TxFactory[Any], **how: bool) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        generator = tx()
        query = next(generator)
        while True:
            assert isinstance(query, Query)
            try:
                query = generator.send(self._rows(query))
            except StopIteration as done:
                return done.value

    scan = read

    def _rows(self, query: Query) -> list[tuple[Any, ...]]:
        if query.name == "run_row":
            if query.params["id"] != "run-1":
                return []
            run = (self.status, 0, 0, None, None, 1, 0, None, None, None, encoded(RunConfig()), None, None, None)
            return [("run-1", "agent-1", "agent-1", *run)]
        assert query.name == "events_after"
        return [(each.first_seq, each.body) for each in self.chunks if each.last_seq > query.params["after"]]


def encoded(config: RunConfig) -> bytes:
    import msgspec

    return msgspec.json.encode(config)


def delta(text: str) -> TextDelta:
    return TextDelta(message_id="message-1", step_id=None, at_us=1, part=0, text=text)


async def collect(mirrors: Mirrors, after: int = 0, found: list[tuple[int, Event]] | None = None) -> Any:
    found = [] if found is None else found
    async for first, events in mirrors.follow("run-1", after):
        found.extend(enumerate(events, first))
    return found


def mirrors_of(database: Database, driven: Callable[[str], bool] = lambda _: False) -> Mirrors:
    return Mirrors(database, driven=driven)  # type: ignore[arg-type]


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.001)


async def test_many_followers_read_once() -> None:
    database = Database()
    database.store(delta("a"), delta("b"))
    mirrors = mirrors_of(database)
    followers = [asyncio.create_task(collect(mirrors)) for _ in range(50)]
    await eventually(lambda: database.asked >= 2)
    database.store(delta("c"), RunStopped("end_turn"), LogEnded())
    mirrors.heard("run-1")
    seen = await asyncio.gather(*followers)
    assert all([seq for seq, _ in each] == [1, 2, 3, 4, 5] for each in seen)
    assert database.asked <= 6


async def test_events_that_come_with_the_news_are_not_read_again() -> None:
    database = Database()
    database.store(delta("a"))
    mirrors = mirrors_of(database)
    found: list[tuple[int, Event]] = []
    follower = asyncio.create_task(collect(mirrors, 0, found))
    await eventually(lambda: len(found) == 1)
    asked = database.asked
    for text in "bcd":
        mirrors.feed("run-1", database.store(delta(text)))
        mirrors.heard("run-1")
    mirrors.feed("run-1", database.store(LogEnded()))
    mirrors.heard("run-1")
    await follower
    assert [seq for seq, _ in found] == [1, 2, 3, 4, 5] and database.asked == asked


async def test_a_gap_in_what_comes_is_read_from_the_log_and_doubles_are_left_out() -> None:
    database = Database()
    first = database.store(delta("a"))
    mirrors = mirrors_of(database)
    found: list[tuple[int, Event]] = []
    follower = asyncio.create_task(collect(mirrors, 0, found))
    await eventually(lambda: len(found) == 1)
    database.store(delta("lost"))
    after = database.store(delta("c"), LogEnded())
    mirrors.feed("run-1", first)
    mirrors.heard("run-1")
    mirrors.feed("run-1", after)  # does not join what is here
    mirrors.heard("run-1")
    await follower
    assert [(seq, getattr(event, "text", None)) for seq, event in found] == [(1, "a"), (2, "lost"), (3, "c"), (4, None)]


async def test_a_follower_that_comes_later_and_saw_less_gets_what_was_before() -> None:
    database = Database()
    database.store(delta("a"), delta("b"), delta("c"))
    mirrors = mirrors_of(database)
    ahead: list[tuple[int, Event]] = []
    one = asyncio.create_task(collect(mirrors, 2, ahead))
    await eventually(lambda: len(ahead) == 1)
    two = asyncio.create_task(collect(mirrors, 0))
    await asyncio.sleep(0.01)
    mirrors.feed("run-1", database.store(LogEnded()))
    assert [seq for seq, _ in await one] == [3, 4]
    assert [seq for seq, _ in await two] == [1, 2, 3, 4]


async def test_an_ended_run_is_replayed_and_an_unknown_one_is_said_to_be_unknown() -> None:
    database = Database()
    database.status = "cancelled"
    mirrors = mirrors_of(database)
    assert await collect(mirrors) == []
    with pytest.raises(NotFound):
        async for _ in mirrors.follow("run-2", 0):
            pass


async def test_a_mirror_ends_when_the_run_is_driven_here_and_with_its_last_follower() -> None:
    database = Database(shared=False)
    here: list[str] = []
    mirrors = mirrors_of(database, driven=here.__contains__)
    follower = asyncio.create_task(collect(mirrors))
    await eventually(lambda: database.asked >= 2)
    here.append("run-1")
    mirrors.heard("run-1")
    assert await follower == [] and not mirrors._mirrors
    here.clear()
    gone = asyncio.create_task(collect(mirrors))
    await eventually(lambda: bool(mirrors._mirrors))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert not mirrors._mirrors


async def test_who_comes_after_the_end_of_the_process_is_told_what_is_stored_and_let_go() -> None:
    database = Database()
    database.store(delta("a"), delta("b"))
    mirrors = mirrors_of(database)
    waiting = asyncio.create_task(collect(mirrors, 2))
    await eventually(lambda: database.asked >= 2)
    mirrors.close()
    async with asyncio.timeout(5):
        assert await waiting == []
        assert [seq for seq, _ in await collect(mirrors)] == [1, 2]
