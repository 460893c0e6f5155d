"""Writes of which nothing is to be known: they travel together, and what comes of them is as if each had been alone."""

from typing import Any

import pytest

from perdure.core.errors import StoreError
from perdure.core.ids import now_us
from perdure.store.base import Many, Query, Store, Tx
from perdure.store.postgres import PostgresStore


def event(run_id: str, seq: int) -> dict[str, Any]:
    return {"run_id": run_id, "first_seq": seq, "last_seq": seq, "body": b"x"}


def agent(name: str) -> dict[str, Any]:
    return {"agent_id": name, "completed_us": now_us(), "duration_ms": 1, "stop_reason": "end_turn"}


def message(name: str) -> dict[str, Any]:
    return {"id": name, "agent_id": "a", "conversation_id": "c", "run_id": None, "body": b"{}"}


async def places(store: Store, *names: str) -> list[int]:
    """Where each message stands; one that is not there is left out."""

    def found() -> Tx[list[int]]:
        places: list[int] = []
        for name in names:
            places += [row[0] for row in (yield Query("message_by_id", {"id": name}))]
        return places

    return await store.read(found)


async def test_writes_of_one_name_keep_their_order(store: Store) -> None:
    def tx() -> Tx[None]:
        for at in range(4):
            yield Query("insert_message", message(f"message-{at}"), later=True)
            yield Query("insert_events", event("run-1", at + 1), later=True)

    await store.write(tx)
    found = await places(store, *(f"message-{at}" for at in range(4)))
    assert found == sorted(found) and len(found) == 4


async def test_they_are_there_for_what_comes_after_them(store: Store) -> None:
    def tx() -> Tx[int]:
        yield Query("insert_message", message("message-1"), later=True)
        first = yield Query("message_by_id", {"id": "message-1"})
        yield Query("insert_message", message("message-2"), later=True)
        yield Many("insert_message", [message("message-3"), message("message-4")])
        return first[0][0]

    first = await store.write(tx)
    found = await places(store, *(f"message-{at}" for at in range(1, 5)))
    assert found[0] == first and found == sorted(found) and len(found) == 4


async def test_one_that_fails_leaves_none(store: Store) -> None:
    def tx(name: str) -> Tx[None]:
        yield Query("insert_message", message(name), later=True)
        yield Query("insert_events", event("run-1", 1), later=True)

    await store.write(lambda: tx("message-1"))
    with pytest.raises(StoreError):
        await store.write(lambda: tx("message-2"))  # the events are there already
    assert len(await places(store, "message-1", "message-2")) == 1


async def test_they_take_one_round_trip(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(store, PostgresStore):
        pytest.skip("SQLite has no round trips")
    import asyncpg

    seen: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def counted(self: Any, sql: str, *parameters: Any, **options: Any) -> Any:
        seen.append(sql)
        return await fetch(self, sql, *parameters, **options)

    monkeypatch.setattr(asyncpg.Connection, "fetch", counted)
    before = store.work.statements

    def tx() -> Tx[None]:
        yield Query("insert_message", message("message-1"), later=True)
        yield Query("insert_events", event("run-1", 1), later=True)
        yield Query("agent_ran", agent("a"), later=True)

    await store.write(tx)
    assert len(seen) == 1 and seen[0].count("INSERT INTO") == 2
    assert store.work.statements - before == 3, "they still count as what they are"
