"""The SQLite driver: whole transactions, grouped into one commit, each on its own."""

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from perdure.core.errors import NotFound, StoreError
from perdure.store.base import Query, Tx
from perdure.store.sqlite import SqliteStore


@pytest.fixture
def database(store: SqliteStore) -> Path:
    return Path(store._path)


def put(otid: str, run_id: str = "run-1") -> Tx[None]:
    yield Query("insert_otid", {"conversation_id": "c", "otid": otid, "run_id": run_id, "now": 1})


def get(otid: str) -> Tx[str | None]:
    rows = yield Query("otid_run", {"conversation_id": "c", "otid": otid})
    return rows[0][0] if rows else None


def put_then_fail(otid: str) -> Tx[None]:
    yield from put(otid)
    raise NotFound("no such thing")


async def test_a_write_is_readable_once_committed(store: SqliteStore) -> None:
    await store.write(lambda: put("a"))
    assert await store.read(lambda: get("a")) == "run-1"
    assert await store.scan(lambda: get("a")) == "run-1"


async def test_a_failed_transaction_takes_nothing_else_of_its_group_with_it(store: SqliteStore) -> None:
    results = await asyncio.gather(
        store.write(lambda: put("kept-1")),
        store.write(lambda: put_then_fail("lost")),
        store.write(lambda: put("kept-2")),
        return_exceptions=True,
    )
    assert isinstance(results[1], NotFound)
    assert await store.read(lambda: get("kept-1")) == "run-1"
    assert await store.read(lambda: get("kept-2")) == "run-1"
    assert await store.read(lambda: get("lost")) is None


async def test_executed_comes_before_committed(store: SqliteStore) -> None:
    write = store.begin_write(lambda: get("a"))
    assert await write.executed is None
    assert await write.committed is None


async def test_writes_commit_in_the_order_they_were_begun(store: SqliteStore) -> None:
    writes = [store.begin_write(lambda n=n: put("same", f"run-{n}")) for n in range(50)]
    await asyncio.gather(*(write.committed for write in writes))
    assert await store.read(lambda: get("same")) == "run-0"


async def test_a_database_error_is_a_store_error(store: SqliteStore) -> None:
    def wrong() -> Tx[None]:
        yield Query("insert_otid", {"conversation_id": "c"})

    with pytest.raises(StoreError, match="SQLite"):
        await store.write(wrong)
    await store.write(lambda: put("after"))
    assert await store.read(lambda: get("after")) == "run-1"


async def test_a_closed_store_says_so(store: SqliteStore) -> None:
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.write(lambda: put("late"))


def slow(otid: str, seconds: float) -> Tx[None]:
    yield from put(otid)
    time.sleep(seconds)


async def longest_pause(stop: asyncio.Event) -> float:
    """For how long something else kept the event loop."""
    longest = 0.0
    while not stop.is_set():
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        longest = max(longest, time.perf_counter() - before)
    return longest


async def test_quick_and_long_writes_commit_in_the_order_they_were_begun(store: SqliteStore) -> None:
    order = (False, True, True, False, True, False, False, True)
    writes = [store.write(lambda n=n: put("same", f"run-{n}"), quick=quick) for n, quick in enumerate(order)]
    await asyncio.gather(*writes)
    assert await store.read(lambda: get("same")) == "run-0"


async def test_a_long_write_leaves_the_event_loop_alone_and_what_follows_waits_for_it(store: SqliteStore) -> None:
    stop = asyncio.Event()
    pause = asyncio.create_task(longest_pause(stop))
    long = asyncio.create_task(store.write(lambda: slow("long", 0.5)))
    await asyncio.sleep(0.05)
    quick = store.begin_write(lambda: put("quick"))
    assert not quick.executed.done()  # type: ignore[attr-defined]
    await quick.committed
    assert long.done()
    stop.set()
    assert await pause < 0.25


async def test_another_process_that_writes_is_waited_for_away_from_the_event_loop(
    store: SqliteStore, database: Path
) -> None:
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    stop = asyncio.Event()
    pause = asyncio.create_task(longest_pause(stop))
    writes = [store.begin_write(lambda n=n: put("same", f"run-{n}"), lazy=n % 2 == 0) for n in range(6)]
    await asyncio.sleep(0.3)
    assert not any(write.committed.done() for write in writes)  # type: ignore[attr-defined]
    other.execute("COMMIT")
    other.close()
    await asyncio.gather(*(write.committed for write in writes))
    stop.set()
    assert await pause < 0.2
    assert await store.read(lambda: get("same")) == "run-0"


async def test_a_transaction_that_fails_of_what_its_group_is_about_to_commit_is_told_after_that(
    store: SqliteStore,
) -> None:
    def fails_if_there() -> Tx[None]:
        if (yield from get("other")) is not None:
            raise NotFound("the other was quicker")

    store.begin_write(lambda: put("other"), lazy=True)
    with pytest.raises(NotFound):
        await store.write(fails_if_there, quick=True)
    assert await store.read(lambda: get("other")) == "run-1"


async def test_what_was_begun_is_committed_by_closing(store: SqliteStore, database: Path) -> None:
    store.begin_write(lambda: put("lazy"), lazy=True)
    long = asyncio.create_task(store.write(lambda: slow("long", 0.1)))
    await asyncio.sleep(0)
    quick = store.begin_write(lambda: put("quick"))
    await store.close()
    await asyncio.gather(long, quick.committed)
    with sqlite3.connect(database) as reading:
        assert {row[0] for row in reading.execute("SELECT otid FROM otids")} == {"lazy", "long", "quick"}
    reading.close()


async def test_a_disk_that_fails_fails_the_whole_group_and_the_next_one_works(
    store: SqliteStore, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page_limit(pages: int) -> None:
        store._writer._connection.execute(f"PRAGMA max_page_count={pages}")

    def large(otid: str) -> Tx[None]:
        yield from put(otid, "x" * 200_000)

    page_limit(1)
    results = await asyncio.gather(
        store.write(lambda: put("first"), quick=True),
        store.write(lambda: large("second"), quick=True),
        return_exceptions=True,
    )
    assert any(isinstance(result, StoreError) for result in results)
    page_limit(1_000_000)
    await store.write(lambda: put("after"), quick=True)
    assert await store.read(lambda: get("after")) == "run-1"
    for otid, result in zip(("first", "second"), results, strict=True):
        assert (await store.read(lambda otid=otid: get(otid)) is None) is isinstance(result, StoreError)


async def test_where_nobody_else_has_anything_to_do_a_quick_disk_is_waited_for(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = True
    store.alone_when(lambda: not others)
    threads: list[str] = []
    finish = store._writer._finish

    def noted(group: Any, long: Any) -> None:
        threads.append(threading.current_thread().name)
        finish(group, long)

    monkeypatch.setattr(store._writer, "_finish", noted)

    async def commit(quick: bool = True) -> str:
        await store.write(lambda: put(f"o{len(threads)}"), quick=quick)
        return threads[-1]

    assert await commit() == "perdure-writer"  # and how long that took is known from now on
    others = False
    store._writer._commit_s = 0.0001
    assert [await commit(), await commit(False), await commit()] == ["MainThread", "perdure-writer", "MainThread"]
    store._writer._commit_s = 0.1  # a slow disk
    assert await commit() == "perdure-writer"
    others, store._writer._commit_s = True, 0.0001
    assert await commit() == "perdure-writer"
    assert await store.read(lambda: get("o5")) == "run-1"


async def test_closing_commits_what_waits_wherever_it_is_committed(store: SqliteStore, database: Path) -> None:
    store.alone_when(lambda: True)
    store._writer._commit_s = 0.0001
    store.begin_write(lambda: put("lazy"), lazy=True)
    await store.close()
    with sqlite3.connect(database) as reading:
        assert reading.execute("SELECT otid FROM otids").fetchall() == [("lazy",)]
    reading.close()


async def test_a_read_sees_what_has_executed_where_it_asks_to(store: SqliteStore) -> None:
    write = store.begin_write(lambda: put("a"), lazy=True)
    assert await store.read(lambda: get("a")) is None
    assert await store.read(lambda: get("a"), executed=True) == "run-1"
    await write.committed
    assert await store.read(lambda: get("a"), executed=True) == "run-1"
