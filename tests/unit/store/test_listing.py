"""Pages of a listing, put together, are the listing: nothing twice, nothing left out, in either direction."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.errors import NotFound
from perdure.store.base import Many, Query, Tx
from perdure.store.listing import Filters, Page, Source, contains, list_rows
from perdure.store.sqlite import SqliteStore

TOOLS = Source("t.id", "tools", "t")


async def fill(store: SqliteStore, times: list[int]) -> list[str]:
    """Tools created at these times; answers their ids in ascending order."""
    rows = [
        {
            "id": f"tool-{at:03}",
            "name": f"tool_{at}",
            "tool_type": "custom",
            "created_us": us,
            "updated_us": us,
            "body": b"{}",
        }
        for at, us in enumerate(times)
    ]

    def tx() -> Tx[None]:
        yield Many("insert_tool", rows)

    await store.write(tx)
    return [row["id"] for row in sorted(rows, key=lambda row: (row["created_us"], row["id"]))]


async def page(store: SqliteStore, **fields: Any) -> list[str]:
    rows = await store.scan(lambda: list_rows(TOOLS, Filters(), Page(**fields), what="Tool"))
    return [row[0] for row in rows]


@given(
    times=st.lists(st.integers(0, 3), max_size=14),
    limit=st.integers(1, 5),
    descending=st.booleans(),
    forward=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pages_give_each_row_once(
    tmp_path_factory: pytest.TempPathFactory,
    empty_database: bytes,
    times: list[int],
    limit: int,
    descending: bool,
    forward: bool,
) -> None:
    path = tmp_path_factory.mktemp("listing") / "perdure.db"
    path.write_bytes(empty_database)
    store = SqliteStore(path, synchronous="NORMAL")
    try:
        everything = await fill(store, times)
        expected = everything[::-1] if descending else everything
        found: list[str] = []
        cursor: dict[str, str] = {} if forward or not expected else {"before": expected[-1]}
        if cursor:
            found = expected[-1:]
        while batch := await page(store, limit=limit, descending=descending, **cursor):
            found = found + batch if forward else batch + found
            cursor = {"after": batch[-1]} if forward else {"before": batch[0]}
            if not expected:
                break
        assert found == expected
    finally:
        await store.close()


async def test_between_two_cursors(store: SqliteStore) -> None:
    ids = await fill(store, [1, 2, 3, 4, 5])
    assert await page(store, after=ids[0], before=ids[4], descending=False, limit=2) == ids[1:3]


async def test_no_limit_is_everything_and_zero_is_nothing(store: SqliteStore) -> None:
    ids = await fill(store, [1, 2, 3])
    assert await page(store, limit=None, descending=False) == ids
    assert await page(store, limit=0) == []


async def test_an_unknown_cursor_is_named(store: SqliteStore) -> None:
    with pytest.raises(NotFound, match="tool-nowhere not found: it cannot be the `after`"):
        await page(store, after="tool-nowhere")


async def test_missing_times_sort_first_and_page_on(store: SqliteStore) -> None:
    agents = Source("a.id", "agents", "a")
    same = {"name": "x", "updated_us": 1, "revision": 1, "project_id": None, "hidden": 0, "body": b"{}"}
    ran = {"agent_id": "agent-2", "completed_us": 7, "duration_ms": 1, "stop_reason": "end_turn"}

    def tx() -> Tx[None]:
        yield Many("insert_agent", [{"id": f"agent-{at}", "created_us": at, **same} for at in range(4)])
        yield Query("agent_ran", ran)

    await store.write(tx)

    async def one(after: str | None) -> str | None:
        wanted = Page(limit=1, order_by="last_run_completed_us", after=after)
        rows = await store.scan(lambda: list_rows(agents, Filters(), wanted, what="Agent"))
        return rows[0][0] if rows else None

    found: list[str] = []
    while (next_id := await one(found[-1] if found else None)) is not None:
        found.append(next_id)
    assert found == ["agent-2", "agent-3", "agent-1", "agent-0"]


def test_like_patterns_are_literal() -> None:
    assert contains("50%_!") == "%50!%!_!!%"
