"""How a transaction runs on a PostgreSQL connection: in as few round trips as what it says of its queries allows.

Writes that nobody waits for travel together (`Query.later`). A transaction whose other answers can be presumed is one statement
without BEGIN and COMMIT, which undoes itself unless it turns out as presumed.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from perdure.store.base import Built, Many, Query, Row, Several, Tx, Work
from perdure.store.sql import Combined, Part, combined, positional, queries, side_by_side

T = TypeVar("T")

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ"
MANY = 8  # rows that are written by one statement of their own; more go one by one
_TABLE = re.compile(r"(?:INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)")


class NotAsPresumed(Exception):
    """Somebody got in between, or the answers are needed after all: the transaction is to ask for each of them."""


class Driver:
    """`work` counts the statements."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._text = queries("postgres")
        self._sql = {name: positional(text) for name, text in self._text.items()}
        self._tables = {name: found[1] for name, text in self._text.items() if (found := _TABLE.match(text))}
        self._combined: dict[tuple[Part, ...], Combined] = {}

    async def read(self, connection: Any, tx: Tx[T]) -> T:
        rows: list[Row] | None = None
        try:
            while True:
                query = tx.send(rows) if rows is not None else next(tx)
                self._work.statements += 1
                rows = await self._ask(connection, query)
        except StopIteration as done:
            return done.value
        finally:
            tx.close()

    async def write(self, connection: Any, tx: Tx[T], *, presuming: bool, committing: Callable[[], None]) -> T:
        """Run and commit it, or leave nothing behind. NotAsPresumed only where `presuming`; a presumption that fails in the
        database is its DivisionByZeroError. `committing` is called when all of it is about to become durable."""
        writing = _Writing(self, connection, presuming)
        try:
            result = await writing.drive(tx, self._work)
            await writing.commit(committing)
            return result
        except BaseException:
            if writing.begun:
                with contextlib.suppress(Exception):  # the connection may be gone; the pool drops it then
                    await connection.execute("ROLLBACK")
            raise
        finally:
            tx.close()

    async def _ask(self, connection: Any, query: Query | Many | Built | Several) -> list[Row]:
        if isinstance(query, Several):
            return await self._ask_several(connection, query.queries)
        if isinstance(query, Many):
            text, names = self._sql[query.name]
            if query.params:
                await connection.executemany(text, [tuple(map(each.__getitem__, names)) for each in query.params])
            return []
        text, names = positional(query.sql) if isinstance(query, Built) else self._sql[query.name]
        return await connection.fetch(text, *map(query.params.__getitem__, names))

    async def _ask_several(self, connection: Any, reads: Sequence[Query | Built]) -> list[Row]:
        texts = tuple([read.sql if isinstance(read, Built) else self._text[read.name] for read in reads])
        text, names = side_by_side(texts)
        row = await connection.fetchrow(text, *[reads[at].params[name] for at, _, name in names])
        self._work.statements += len(reads) - 1
        return [found or [] for found in row]  # type: ignore[misc]

    async def _ask_together(self, connection: Any, writes: list[Query | Many]) -> None:
        key = tuple([_part(write) for write in writes])
        text, names = self._combined.get(key) or self._combined.setdefault(key, combined(key, self._text))
        rows = [[write.params] if isinstance(write, Query) else write.params for write in writes]
        await connection.fetch(text, *[rows[at][row][name] for at, row, name in names])


class _Writing:
    """One transaction under way.

    Invariant: while it has not `begun`, nothing of it has reached the database but reads. `_presumed`: something was that the
    database has not confirmed. `_proved`: what was read provisionally will be.
    """

    __slots__ = ("_connection", "_driver", "_pending", "_presumed", "_presuming", "_proved", "_tables", "begun")

    def __init__(self, driver: Driver, connection: Any, presuming: bool) -> None:
        self._driver = driver
        self._connection = connection
        self._presuming = presuming
        self._pending: list[Query | Many] = []
        self._tables: set[str] = set()
        self._presumed = False
        self._proved = True
        self.begun = False

    async def drive(self, tx: Tx[T], work: Work) -> T:
        rows: list[Row] | None = None
        while True:
            try:
                query = tx.send(rows) if rows is not None else next(tx)
            except StopIteration as done:
                if self._pending and not self._proved:
                    raise NotAsPresumed from None
                return done.value
            except Exception as error:
                if self._presumed:  # it may come of that
                    raise NotAsPresumed from error
                raise
            work.statements += 1
            rows = await self._answer(query)

    async def _answer(self, query: Query | Many | Built | Several) -> list[Row]:
        if isinstance(query, Query) and self._presuming and not self.begun:
            if query.presumed is not None:
                await self._put_off(query)
                self._presumed = self._proved = True
                return list(query.presumed)
            if query.provisional and not self._pending:
                self._proved = False
                return await self._driver._ask(self._connection, query)
        if isinstance(query, Query | Many) and query.later and _rows_of(query) <= MANY:
            await self._put_off(query)
            return []
        if not self._proved:
            raise NotAsPresumed
        await self._begin()
        await self._flush()
        return await self._driver._ask(self._connection, query)

    async def commit(self, committing: Callable[[], None]) -> None:
        if self.begun:
            await self._flush()
        committing()
        if self.begun:
            await self._connection.execute("COMMIT")
        else:
            await self._flush()

    async def _put_off(self, write: Query | Many) -> None:
        if not _rows_of(write):
            return
        table = self._driver._tables[write.name]
        if table in self._tables:  # statements that travel together do not see each other's rows
            await self._begin()
            await self._flush()
        self._pending.append(write)
        self._tables.add(table)

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            await self._connection.execute(BEGIN)

    async def _flush(self) -> None:
        if self._pending:
            writes, self._pending = self._pending, []
            self._tables.clear()
            await self._driver._ask_together(self._connection, writes)
            self._presumed = False


def _rows_of(write: Query | Many) -> int:
    return len(write.params) if isinstance(write, Many) else 1


def _part(write: Query | Many) -> Part:
    return Part(write.name, _rows_of(write), needed=isinstance(write, Query) and write.presumed is not None)
