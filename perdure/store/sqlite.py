"""SQLite: one writer that groups transactions into one commit (`sqlite_writer.py`), and readers that never wait for it."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from perdure.core.errors import StoreError
from perdure.store.base import TxFactory, Work, Write
from perdure.store.signals import NoSignals, Signals
from perdure.store.sqlite_file import FileLock, damage
from perdure.store.sqlite_writer import Runner, Writer

T = TypeVar("T")
log = logging.getLogger(__name__)

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
        "secure_delete=FAST",  # what is deleted is overwritten where that costs no page; some builds overwrite it at any cost
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
        self._runner = Runner(self.work)
        self._reader = connect(path, synchronous=synchronous)
        writing = connect(path, synchronous=synchronous)
        writing.execute("PRAGMA busy_timeout=0")  # the writer waits for locks by itself, away from the event loop
        self._writer = Writer(writing, self._runner, BUSY_TIMEOUT_S)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="perdure-reader")
        self._pool_connection = threading.local()
        self._pool_connections: list[sqlite3.Connection] = []
        self._closed = False

    def alone_when(self, alone: Callable[[], bool]) -> None:
        """`alone`: whether nobody would notice if the event loop waited for a quick disk."""
        self._writer.alone = alone

    async def read(self, tx: TxFactory[T], *, executed: bool = False) -> T:
        if executed and self._writer.busy:
            return await self.begin_write(tx, lazy=True).executed
        return self._runner.run(self._reader, tx())

    async def scan(self, tx: TxFactory[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._scan, tx)

    async def write(self, tx: TxFactory[T], *, repeatable: bool = False, quick: bool = False) -> T:
        self._check_open()
        return await self._writer.submit(tx, quick=quick).committed

    def begin_write(self, tx: TxFactory[Any], *, lazy: bool = False, quick: bool = True) -> Write:
        self._check_open()
        job = self._writer.submit(tx, quick=quick, lazy=lazy, early=True)
        assert job.executed is not None
        # a caller that only wants `executed` must not be blamed for a `committed` nobody reads, nor the other way round
        for future in (job.executed, job.committed):
            if not future.done():
                future.add_done_callback(_retrieve)
            else:
                _retrieve(future)
        return Write(job.executed, job.committed)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        self._pool.shutdown(wait=True)
        for connection in (*self._pool_connections, self._reader):
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

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("The store is closed: the server is shutting down.")

    def _scan(self, tx: TxFactory[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._pool_connection, "connection", None)
        if connection is None:
            connection = self._pool_connection.connection = connect(self._path)
            self._pool_connections.append(connection)
        connection.execute("BEGIN")
        try:
            return self._runner.run(connection, tx())
        finally:
            connection.execute("COMMIT")


def _retrieve(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
