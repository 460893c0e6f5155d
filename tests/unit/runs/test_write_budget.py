"""What a step costs in SQL: at most ten statements, however long the conversation is.

PERDURE_PROMISES=long: of a thousand messages instead of sixty.
"""

import os
from collections.abc import Callable, Generator
from typing import Any

import pytest

from perdure.store.base import Many
from perdure.store.sqlite import SqliteStore
from tests.unit.runs.test_runner import World, insert, world

__all__ = ["world"]

BUDGET = 10
LOOKING = {"orphaned_runs", "lease_owners", "count_waiting", "renew_lease", "cancel_requests", "due_callbacks"}
"""What is asked now and then beside any run."""
LENGTH = 1000 if os.environ.get("PERDURE_PROMISES") == "long" else 60


@pytest.fixture
def statements(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that are run from now on, by name; a batch of the same one counts for each set of parameters."""
    found: list[str] = []

    def counted(tx: Callable[[], Generator[Any, Any, Any]]) -> Callable[[], Generator[Any, Any, Any]]:
        def run() -> Generator[Any, Any, Any]:
            inner = tx()
            rows: Any = None
            try:
                while True:
                    query = inner.send(rows)
                    count = len(query.params) if isinstance(query, Many) else 1
                    found.extend([getattr(query, "name", "built")] * count)
                    rows = yield query
            except StopIteration as done:
                return done.value

        return run

    for name in ("read", "scan", "write", "begin_write"):
        method = getattr(store, name)

        def wrapped(tx: Any, *more: Any, method: Any = method, **options: Any) -> Any:
            return method(counted(tx), *more, **options)

        monkeypatch.setattr(store, name, wrapped)
    return found


async def test_a_step_takes_at_most_ten_statements(world: World, statements: list[str]) -> None:
    """A message of one step, and one of four: what the steps in between cost is the budget; the request's own comes on top."""
    await world.send("warm")
    statements.clear()
    await world.send("one step")
    one = len(statements)
    statements.clear()
    world.model.answers = [insert("a", "c1"), insert("b", "c2"), insert("c", "c3"), "done"]
    await world.send("four steps")
    assert (len(statements) - one) / 3 <= BUDGET, statements
    assert one <= BUDGET + 6, "accepting the request, its lease and its end"


async def test_a_step_costs_the_same_in_a_long_conversation(world: World, statements: list[str]) -> None:
    await world.send("warm")
    statements.clear()
    await world.send("early")
    early = list(statements)
    for number in range(LENGTH):
        await world.send(f"message {number}")
    statements.clear()
    await world.send("late")
    late = list(statements)
    assert [name for name in late if name not in LOOKING] == [name for name in early if name not in LOOKING]
