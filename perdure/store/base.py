"""The Store seam: transactions as generators, run by a driver.

A transaction is a generator that yields queries and receives rows: `rows = yield Query("agent_by_id", {"id": id})`. It holds
no connection and awaits nothing, so the same code runs on a SQLite connection and on an asyncpg one. What it raises rolls
all of it back. It may be run again from the start when the database asks for a retry, so it must have no effect
but its queries.
"""

import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from perdure.store.signals import Signals

T = TypeVar("T")
Row = tuple[Any, ...]

LARGE = 1 << 20  # bytes; what writes as many is not quick


class Query(NamedTuple):
    """One named query with its `:name` parameters; answers its rows ([] for a write without RETURNING).

    `later`: a write of which nothing is to be known. It may travel with others of its kind that follow it, in no order among
    those of different tables, before the next query of another kind or the commit.
    `presumed`: what a write answers unless another transaction got in between; it answers no row then. A driver may go on with
    that answer, find out with the commit, and in the bad case run the transaction again from the start, asking.
    `provisional`: a read that a write with a presumed answer will prove to hold still, before anything is written.
    """

    name: str
    params: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    later: bool = False
    presumed: Sequence[Row] | None = None
    provisional: bool = False


class Many(NamedTuple):
    """The same write for several parameter sets, in order. `later`: as a query's."""

    name: str
    params: Sequence[dict[str, Any]]
    later: bool = False


class Built(NamedTuple):
    """A listing whose WHERE clause depends on the request: SQL text put together from fixed fragments (`listing.py`)."""

    sql: str
    params: dict[str, Any]


class Several(NamedTuple):
    """Reads of which none needs another's answer; answers the rows of each, in their order."""

    queries: Sequence[Query | Built]


Tx = Generator[Query | Many | Built | Several, list[Row], T]
TxFactory = Callable[[], Tx[T]]


def together(*parts: Tx[Any]) -> Tx[tuple[Any, ...]]:
    """Run transactions that only read side by side, asking at once what they ask at the same time; their results in order."""
    results: list[Any] = [None] * len(parts)  # of those that go on, the answers they wait for
    going = range(len(parts))
    while True:
        asked: list[Any] = []
        still: list[int] = []
        for at in going:
            try:
                asked.append(parts[at].send(results[at]))
                still.append(at)
            except StopIteration as done:
                results[at] = done.value
        if not asked:
            return tuple(results)
        if len(asked) == 1:
            results[still[0]] = yield asked[0]
        else:
            for at, rows in zip(still, (yield Several(asked)), strict=True):
                results[at] = rows
        going = still


class Write(NamedTuple):
    """A write under way: `executed` gives its result before it is durable, `committed` the same once it is.

    Whoever awaits only `executed` may act on the result, but must not tell anyone outside before `committed`.
    """

    executed: Awaitable[Any]
    committed: Awaitable[Any]


class Work:
    """What a store has done so far: `statements` of transactions, and the `seconds` they took it, waiting for a connection or
    for the writer's turn not counted. Threads count together, so one in very many may be missing."""

    __slots__ = ("seconds", "statements")

    def __init__(self) -> None:
        self.statements = 0
        self.seconds = 0.0

    def add(self, statements: int, since: float) -> None:
        """`since`: by `time.perf_counter`, when they began."""
        self.statements += statements
        self.seconds += time.perf_counter() - since


class Store(Protocol):
    dialect: str
    work: Work
    signals: Signals
    warning: str | None

    async def read(self, tx: TxFactory[T], *, executed: bool = False) -> T:
        """A few point reads; on SQLite they run at once on the event loop's own connection (tens of microseconds).

        `executed`: they see what has executed here (`Write.executed`), committed or not.
        """
        ...

    async def scan(self, tx: TxFactory[T]) -> T:
        """Larger reads (listings, histories, exports), away from the event loop, in one snapshot."""
        ...

    async def write(self, tx: TxFactory[T], *, repeatable: bool = False, quick: bool = False) -> T:
        """Run the transaction; durable when this returns. Raises what the transaction raised, with nothing written.

        `repeatable`: the transaction notices by itself that it has been committed already, so it may be run again when the
        answer to its commit was lost on the way. `quick`: it is a few point statements with less than a megabyte
        between them; SQLite runs those at once on the event loop, and has a thread for the others.
        """
        ...

    def begin_write(self, tx: TxFactory[T], *, lazy: bool = False, quick: bool = True) -> Write:
        """As `write`, without waiting. On SQLite writes commit in the order they were begun; on PostgreSQL, whoever needs
        one after another waits for the first.

        `lazy`: the commit may wait a few milliseconds to be shared with the next write.
        """
        ...

    async def check_after_crash(self) -> None:
        """Look for damage if the last server did not stop by itself; `warning` says what was found."""
        ...

    async def close(self) -> None: ...
