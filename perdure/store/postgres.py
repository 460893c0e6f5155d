"""PostgreSQL: any number of server processes on one database, each with a small pool of connections.

Writes run at REPEATABLE READ and are run again from their start when another transaction got in between, so a transaction
sees the database as if it were alone, as on SQLite. A lost connection is waited out; a write is only repeated after one when
it cannot have been committed, or says itself that repeating it is harmless.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from perdure.core.errors import AgentError, StoreError
from perdure.store.base import TxFactory, Work, Write
from perdure.store.postgres_driver import Driver, NotAsPresumed
from perdure.store.signals import PostgresSignals, Signals

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_RETRIES = 20
LISTENING = 1  # connections besides the pool's
# What a larger read is best done by depends on what is asked for: it is planned each time.
BEGIN_SCAN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan"
PREPARED = 500  # statements kept ready by each connection: all that there are, and their usual combinations
SETTINGS = {"application_name": "perdure", "idle_in_transaction_session_timeout": "60000", "jit": "off"}


class PostgresStore:
    """`url` as libpq has it (postgresql://...). `patience_s`: how long a database that is away is waited for."""

    dialect = "postgres"

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        statement_timeout_s: float = 30.0,
        lock_timeout_s: float = 10.0,
        patience_s: float = 20.0,
    ) -> None:
        self.url = url
        self.warning: str | None = None
        self.signals: Signals = PostgresSignals(self)
        self.work = Work()
        self._pool_size = pool_size
        self._settings = SETTINGS | {
            "statement_timeout": str(int(statement_timeout_s * 1000)),
            "lock_timeout": str(int(lock_timeout_s * 1000)),
        }
        self._patience_s = patience_s
        self._driver = Driver(self.work)
        self._pool: Any = None
        self._opening: asyncio.Lock | None = None
        self._writes: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def read(self, tx: TxFactory[T], *, executed: bool = False) -> T:
        async def run(connection: Any) -> T:
            return await self._driver.read(connection, tx())

        return await self._until_done(run)

    async def scan(self, tx: TxFactory[T]) -> T:
        async def run(connection: Any) -> T:
            await connection.execute(BEGIN_SCAN)
            try:
                return await self._driver.read(connection, tx())
            finally:
                with contextlib.suppress(Exception):  # the connection may be gone; the pool drops it then
                    await connection.execute("ROLLBACK")

        return await self._until_done(run)

    async def write(self, tx: TxFactory[T], *, repeatable: bool = False, quick: bool = False) -> T:
        return await asyncio.shield(self._begin(tx, repeatable=repeatable))

    def begin_write(self, tx: TxFactory[Any], *, lazy: bool = False, quick: bool = True) -> Write:
        """`lazy` means nothing here: each transaction is a commit of its own, and the server groups those by itself."""
        task = self._begin(tx)
        return Write(task, task)

    async def check_after_crash(self) -> None:
        """PostgreSQL recovers by itself."""

    async def close(self) -> None:
        self._closed = True
        await self.signals.close()
        if self._writes:
            await asyncio.wait(self._writes, timeout=10)
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    async def check_connections(self) -> None:
        """StoreError if the database does not allow as many connections as this process may need."""
        needed = self._pool_size + LISTENING
        async with self.connection() as connection:
            row = await connection.fetchrow(
                "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, "
                "(SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), "
                "(SELECT datconnlimit FROM pg_database WHERE datname = current_database())"
            )
        allowed = min(limit for limit in row if limit is not None and limit >= 0)
        if needed > allowed:
            raise StoreError(
                f"PostgreSQL allows {allowed} connections, and this process may need {needed}. Set PERDURE_POSTGRES_POOL to "
                f"{max(1, allowed - LISTENING)} or less, shared among all servers and workers, or raise max_connections."
            )

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any]:
        """A pooled connection, as asyncpg has it: for what no transaction can say."""
        pool = await self._open_pool()
        async with pool.acquire() as connection:
            yield connection

    def _begin(self, tx: TxFactory[T], *, repeatable: bool = False) -> "asyncio.Task[T]":
        if self._closed:
            raise StoreError("The store is closed: the server is shutting down.")
        task = asyncio.get_running_loop().create_task(self._write(tx, repeatable))
        self._writes.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it is told; a caller that does not want to know is not blamed

    async def _write(self, tx: TxFactory[T], repeatable: bool) -> T:
        import asyncpg

        progress = _Progress()
        presuming = True

        async def run(connection: Any) -> T:
            nonlocal presuming
            if presuming:
                presuming = False  # only once: whatever came of it, the next attempt asks
                try:
                    return await self._driver.write(connection, tx(), presuming=True, committing=progress.commits)
                except (NotAsPresumed, asyncpg.DivisionByZeroError, asyncpg.IntegrityConstraintViolationError):
                    pass  # nothing of it was written; asked step by step, it succeeds or says what is wrong
            progress.committing = False
            return await self._driver.write(connection, tx(), presuming=False, committing=progress.commits)

        return await self._until_done(run, progress=None if repeatable else progress)

    async def _until_done(self, run: Any, *, progress: "_Progress | None" = None) -> Any:
        """Run it on a connection, again after what goes away by itself: conflicts at once, a lost database after a pause."""
        import asyncpg

        deadline = time.monotonic() + self._patience_s
        attempt = 0
        while True:
            attempt += 1
            try:
                pool = await self._open_pool()
                async with pool.acquire() as connection:
                    since = time.perf_counter()
                    try:
                        return await run(connection)
                    except asyncpg.InternalClientError:  # the database has said that it ends this connection
                        connection.terminate()
                        raise
                    finally:
                        self.work.add(0, since)
            except AgentError:
                raise
            except ValueError as error:  # a parameter of the wrong type
                raise _wrapped(error) from error
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError) as error:
                if attempt > MAX_RETRIES or (isinstance(error, asyncpg.UniqueViolationError) and attempt > 2):
                    raise _wrapped(error) from error
                await asyncio.sleep(random.random() * 0.002 * min(attempt, 10))
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresConnectionError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
                asyncpg.OperatorInterventionError,
                asyncpg.TooManyConnectionsError,
                asyncpg.ReadOnlySQLTransactionError,
            ) as error:
                if isinstance(error, asyncpg.QueryCanceledError):
                    raise StoreError(f"PostgreSQL: a statement took too long: {error}") from error
                if progress is not None and progress.committing:
                    raise StoreError(
                        f"PostgreSQL went away during a commit, whose outcome is unknown: {error}"
                    ) from error
                if time.monotonic() >= deadline or self._closed:
                    raise StoreError(f"PostgreSQL cannot be reached: {type(error).__name__}: {error}") from error
                if attempt == 1:
                    log.warning("PostgreSQL is away (%s: %s); trying again", type(error).__name__, error)
                await asyncio.sleep(min(0.05 * 2 ** min(attempt, 5), 1.0))
            except asyncpg.PostgresError as error:
                raise _wrapped(error) from error

    async def _open_pool(self) -> Any:
        if self._pool is not None:
            return self._pool
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._pool is None:
                import asyncpg

                self._pool = await asyncpg.create_pool(
                    self.url,
                    min_size=1,
                    max_size=self._pool_size,
                    timeout=5,
                    server_settings=self._settings,
                    max_inactive_connection_lifetime=300,
                    statement_cache_size=PREPARED,
                    reset=_nothing_to_reset,
                )
        return self._pool


class _Progress:
    """Whether a COMMIT was on its way when the connection broke: then nobody knows what became of it."""

    __slots__ = ("committing",)

    def __init__(self) -> None:
        self.committing = False

    def commits(self) -> None:
        self.committing = True


async def _nothing_to_reset(_connection: Any) -> None:
    """A transaction left open has been rolled back; nothing here changes anything else of a connection for good."""


def _wrapped(error: Exception) -> StoreError:
    return StoreError(f"PostgreSQL: {type(error).__name__}: {error}")
