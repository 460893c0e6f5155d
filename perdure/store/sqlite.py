"""SQLite: one writer thread that groups whole transactions into one commit, and readers that never wait for it.

Each transaction runs in a savepoint of the group's transaction: one that fails takes nothing else with it. A result is
handed over only after the group's COMMIT has reached the disk (synchronous=FULL), except through `Write.executed`.
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from perdure.core.errors import AgentError, StoreError
from perdure.store.base import Built, Many, Query, Row, Tx, TxFactory, Work, Write
from perdure.store.signals import NoSignals, Signals
from perdure.store.sql import queries
from perdure.store.sqlite_file import FileLock, damage

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_GROUP = 256
LAZY_S = 0.005
BUSY_TIMEOUT_S = 10.0


def connect(path: str | Path, *, synchronous: str = "FULL") -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    for pragma in (
        "journal_mode=WAL",
        f"synchronous={synchronous}",
        "temp_store=MEMORY",
        "cache_size=-16000",
        "wal_autocheckpoint=4000",
    ):
        try:
            connection.execute(f"PRAGMA {pragma}")
        except sqlite3.DatabaseError as error:
            connection.close()
            raise StoreError(
                f"{path} cannot be opened: {error}. Restore a backup, or give another --database."
            ) from error
    return connection


class _Job:
    """One transaction on its way through the writer."""

    __slots__ = ("committed", "error", "executed", "lazy", "result", "tx")

    def __init__(
        self,
        tx: TxFactory[Any],
        executed: "asyncio.Future[Any] | None",
        committed: "asyncio.Future[Any]",
        lazy: bool,
    ) -> None:
        self.tx = tx
        self.lazy = lazy
        self.executed = executed
        self.committed = committed
        self.result: Any = None
        self.error: BaseException | None = None


class SqliteStore:
    dialect = "sqlite"

    def __init__(
        self, path: str | Path, *, synchronous: str = "FULL", readers: int = 2, lock: FileLock | None = None
    ) -> None:
        """`lock`: given back when the store is closed."""
        self._lock = lock
        self.warning: str | None = None
        self.signals: Signals = NoSignals()
        self.work = Work()
        self._path = str(path)
        self._sql = queries("sqlite")
        self._reader = connect(path, synchronous=synchronous)
        self._writer = connect(path, synchronous=synchronous)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="perdure-reader")
        self._pool_connection = threading.local()
        self._pool_connections: list[sqlite3.Connection] = []
        self._thread = threading.Thread(target=self._write_loop, name="perdure-writer", daemon=True)
        self._thread.start()
        self._closed = False

    async def read(self, tx: TxFactory[T]) -> T:
        return self._drive(self._reader, tx())

    async def scan(self, tx: TxFactory[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._scan, tx)

    async def write(self, tx: TxFactory[T], *, repeatable: bool = False) -> T:
        return await self._submit(tx, early=False, lazy=False).committed

    def begin_write(self, tx: TxFactory[Any], *, lazy: bool = False) -> Write:
        job = self._submit(tx, early=True, lazy=lazy)
        # a caller that only wants `executed` must not be blamed for a `committed` nobody reads
        job.committed.add_done_callback(_retrieve)
        assert job.executed is not None
        job.executed.add_done_callback(_retrieve)
        return Write(job.executed, job.committed)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._pool.shutdown(wait=True)
        for connection in (*self._pool_connections, self._reader, self._writer):
            connection.close()
        if self._lock is not None:
            self._lock.release()

    async def check_after_crash(self) -> None:
        """Read the whole file if its last server did not stop by itself; `warning` says what is wrong with it."""
        if self._lock is None or not self._lock.unclean:
            return
        wrong = await asyncio.to_thread(damage, Path(self._path))
        if wrong:
            self.warning = f"The database {self._path} is damaged ({wrong[0]}). Restore a backup of it."
            log.critical("%s", self.warning)

    def _submit(self, tx: TxFactory[Any], *, early: bool, lazy: bool) -> _Job:
        if self._closed:
            raise StoreError("The store is closed: the server is shutting down.")
        loop = self._loop = asyncio.get_running_loop()
        job = _Job(tx, loop.create_future() if early else None, loop.create_future(), lazy)
        self._jobs.put(job)
        return job

    def _scan(self, tx: TxFactory[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._pool_connection, "connection", None)
        if connection is None:
            connection = self._pool_connection.connection = connect(self._path)
            self._pool_connections.append(connection)
        connection.execute("BEGIN")
        try:
            return self._drive(connection, tx())
        finally:
            connection.execute("COMMIT")

    def _drive(self, connection: sqlite3.Connection, tx: Tx[T]) -> T:
        """Run a transaction's generator to its end; database errors become StoreError, thrown into it first."""
        sql = self._sql
        rows: list[Row] | None = None
        statements, since = 0, time.perf_counter()
        try:
            while True:
                query = tx.send(rows) if rows is not None else next(tx)
                statements += 1
                if type(query) is Query:
                    rows = connection.execute(sql[query.name], query.params).fetchall()
                elif type(query) is Built:
                    rows = connection.execute(query.sql, query.params).fetchall()
                else:
                    assert type(query) is Many
                    connection.executemany(sql[query.name], query.params)
                    rows = []
        except StopIteration as done:
            return done.value
        except sqlite3.Error as error:
            tx.close()
            raise StoreError(f"SQLite: {type(error).__name__}: {error}") from error
        finally:
            self.work.add(statements, since)

    def _write_loop(self) -> None:
        """Jobs that came meanwhile make one group; a group of only lazy jobs stays open for a moment, for more to join."""
        group: list[_Job] = []
        deadline = 0.0
        while True:
            jobs, stop = self._next_jobs(deadline - time.monotonic() if group else None)
            if jobs and not group:
                deadline = time.monotonic() + LAZY_S
            if jobs and self._run_jobs(group, jobs) and all(job.lazy for job in group) and not stop:
                continue
            if group:
                self._commit(group)
                group = []
            if stop:
                return

    def _next_jobs(self, timeout_s: float | None) -> tuple[list[_Job], bool]:
        """What waits in the queue, at most a group's worth ([] after the timeout), and whether the store is closing."""
        try:
            job = self._jobs.get(timeout=None if timeout_s is None else max(timeout_s, 0))
        except queue.Empty:
            return [], False
        jobs: list[_Job] = []
        while job is not None:
            jobs.append(job)
            if len(jobs) >= MAX_GROUP:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _run_jobs(self, group: list[_Job], jobs: list[_Job]) -> bool:
        """Run jobs in the group's transaction, beginning it if need be; False if the database failed them all."""
        try:
            if not group:
                self._writer.execute("BEGIN IMMEDIATE")
            group.extend(jobs)
            for job in jobs:
                self._run_in_savepoint(job)
        except Exception as error:  # every waiter must be answered, whatever broke
            self._fail(group or jobs, error)
            group.clear()
            return False
        if any(job.executed is not None for job in jobs):
            self._post(_settle_executed, jobs)
        return True

    def _commit(self, group: list[_Job]) -> None:
        since = time.perf_counter()
        try:
            self._writer.execute("COMMIT")
        except Exception as error:
            self._fail(group, error)
        else:
            self._post(_settle, group)
        self.work.add(0, since)

    def _fail(self, group: list[_Job], error: Exception) -> None:
        log.error("a group of %d transactions failed", len(group), exc_info=error)
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("ROLLBACK")
        for job in group:
            if job.error is None:
                job.error = StoreError(f"The database could not commit: {error}")
        self._post(_settle, list(group))

    def _run_in_savepoint(self, job: _Job) -> None:
        connection = self._writer
        connection.execute("SAVEPOINT job")
        try:
            job.result = self._drive(connection, job.tx())
        except Exception as error:  # belongs to the job's caller
            job.error = error if isinstance(error, AgentError) else _wrapped(error)
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _post(self, settle: Callable[[list[_Job]], None], group: list[_Job]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(settle, group)


def _wrapped(error: Exception) -> Exception:
    wrapped = StoreError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _settle_executed(group: list[_Job]) -> None:
    for job in group:
        if job.executed is not None and not job.executed.done():
            _answer(job.executed, job)


def _settle(group: list[_Job]) -> None:
    for job in group:
        if job.executed is not None and not job.executed.done():
            _answer(job.executed, job)
        if not job.committed.done():
            _answer(job.committed, job)


def _answer(future: "asyncio.Future[Any]", job: _Job) -> None:
    if job.error is not None:
        future.set_exception(job.error)
    else:
        future.set_result(job.result)


def _retrieve(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
