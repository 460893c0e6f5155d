"""The SQLite driver: whole transactions, grouped into one commit, each on its own."""

import asyncio

import pytest

from perdure.core.errors import NotFound, StoreError
from perdure.store.base import Query, Tx
from perdure.store.sqlite import SqliteStore


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
