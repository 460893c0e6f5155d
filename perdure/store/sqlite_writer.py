"""The write side of a SQLite file: one connection, used in turns by the event loop and by a thread.

The statements of a quick transaction run at once on the event loop: they take a fraction of a millisecond, less than waking
a thread and fighting it for the interpreter. What waits is the thread's: the COMMIT, which goes to the disk, long
transactions, and another process's lock. What comes meanwhile queues, and makes the next group. Only where nobody else has
anything to do, and the disk has been quick so far, the event loop commits by itself.

Invariants: transactions run and commit in the order they came. Of a group each is whole or absent: one that fails takes
nothing else with it. `committed` is answered only after the group's COMMIT has reached the disk (synchronous=FULL). The
connection is the thread's while `_handed_over`, else the event loop's.
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from perdure.core.errors import AgentError, StoreError
from perdure.store.base import Built, Many, Query, Row, Several, Tx, TxFactory, Work
from perdure.store.sql import queries

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_GROUP = 256
LAZY_S = 0.005
TURN_S = 0.005  # for how long queued transactions may keep the event loop before what has run is committed
LOCK_RETRY_S = 0.01
QUICK_COMMIT_S = 0.004  # a disk that takes longer is not waited for by the event loop
PATIENCE = 0.25  # the weight of the newest commit in how quick the disk is


class Runner:
    """Runs transactions' generators on connections and counts what that takes."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._sql = queries("sqlite")

    def run(self, connection: sqlite3.Connection, tx: Tx[T]) -> T:
        """Run a transaction to its end; database errors become StoreError."""
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
                elif type(query) is Many:
                    connection.executemany(sql[query.name], query.params)
                    rows = []
                else:
                    assert type(query) is Several
                    rows = []
                    for each in query.queries:
                        text = sql[each.name] if type(each) is Query else each.sql  # type: ignore[union-attr]
                        rows.append(connection.execute(text, each.params).fetchall())  # type: ignore[arg-type]
                    statements += len(rows) - 1
        except StopIteration as done:
            return done.value
        except sqlite3.Error as error:
            tx.close()
            raise StoreError(f"SQLite: {type(error).__name__}: {error}") from error
        finally:
            self.work.add(statements, since)


class Job:
    """One transaction on its way through the writer."""

    __slots__ = ("committed", "error", "executed", "lazy", "quick", "result", "tx")

    def __init__(self, tx: TxFactory[Any], loop: asyncio.AbstractEventLoop, *, quick: bool, lazy: bool) -> None:
        self.tx = tx
        self.quick = quick
        self.lazy = lazy
        self.executed: asyncio.Future[Any] | None = None
        self.committed: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """`lock_timeout_s`: for how long another process may hold the file's write lock before a transaction fails of it.

    `alone`: whether nobody would notice if the event loop waited for a moment.
    """

    def __init__(self, connection: sqlite3.Connection, runner: Runner, lock_timeout_s: float) -> None:
        self._connection = connection
        self._runner = runner
        self._lock_timeout_s = lock_timeout_s
        self.alone: Callable[[], bool] = lambda: False
        self._waiting: deque[Job] = deque()
        self._group: list[Job] = []  # have run in the open transaction
        self._urgent = False  # somebody waits for the group's commit
        self._handed_over = False
        self._commit_at: asyncio.Handle | None = None
        self._commit_soon = False
        self._commit_s = QUICK_COMMIT_S  # of late; the first ones are the thread's
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None
        self._handed: queue.SimpleQueue[tuple[list[Job], Sequence[Job]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="perdure-writer", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything was submitted that is not committed."""
        return bool(self._group) or self._handed_over or bool(self._waiting)

    def submit(self, tx: TxFactory[Any], *, quick: bool, lazy: bool = False, early: bool = False) -> Job:
        """`quick`: point statements on few rows. `lazy`: the commit may wait a moment for the next transaction. `early`: the
        job's `executed` is wanted too."""
        loop = self._loop = asyncio.get_running_loop()
        job = Job(tx, loop, quick=quick, lazy=lazy)
        if early:
            job.executed = loop.create_future()
        if self._handed_over or self._waiting or not quick or not self._run_here(job):
            self._waiting.append(job)
        if not self._handed_over:
            self._plan_commit()
        return job

    async def close(self) -> None:
        """Returns once all that was submitted is answered."""
        self._loop = asyncio.get_running_loop()
        self._closing = self._loop.create_future()
        if not self._handed_over:
            self._advance()
        await self._closing
        self._handed.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._connection.close()

    # -- on the event loop

    def _run_here(self, job: Job) -> bool:
        """False if another process holds the file's lock: then the thread has to wait for it."""
        try:
            self._execute(job, self._group)
        except sqlite3.Error as error:
            if _locked(error):
                job.quick = False
                return False
            self._lose(self._group, [job], error)
            _settle((*self._group, job))
            self._group = []
            return True
        _settle_executed(job)
        if not self._group:
            _settle([job])
        elif not job.lazy:
            self._urgent = True
        return True

    def _plan_commit(self) -> None:
        """Commit with the next turn of the event loop, so that what else runs in this one joins; a lazy group later."""
        assert self._loop is not None
        soon = self._urgent or bool(self._waiting)
        if self._commit_at is not None:
            if self._commit_soon or not soon:
                return
            self._commit_at.cancel()
        elif not soon and not self._group:
            return
        self._commit_soon = soon
        self._commit_at = self._loop.call_soon(self._advance) if soon else self._loop.call_later(LAZY_S, self._advance)

    def _advance(self) -> None:
        """Run what waits, and hand what is to be committed to the thread."""
        self._commit_at = None
        if self._handed_over:
            return
        self._run_waiting()
        long: list[Job] = []
        if self._waiting and not self._waiting[0].quick:
            while self._waiting and len(long) < MAX_GROUP:
                long.append(self._waiting.popleft())
        if self._group or long:
            group, self._group, self._urgent = self._group, [], False
            if long or self._commit_s >= QUICK_COMMIT_S or not self.alone():
                self._handed_over = True
                self._handed.put((group, long))
                return
            self._finish(group, long)
            _settle(group)
        if self._waiting:
            self._plan_commit()
        elif self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def _run_waiting(self) -> None:
        """Those quick ones that are next, for as long as the event loop can be kept."""
        since = time.perf_counter()
        while self._waiting and self._waiting[0].quick and len(self._group) < MAX_GROUP:
            job = self._waiting.popleft()
            if not self._run_here(job):
                self._waiting.appendleft(job)
            if time.perf_counter() - since > TURN_S:
                return

    def _committed(self, jobs: Sequence[Job]) -> None:
        _settle(jobs)
        self._handed_over = False
        self._run_waiting()
        if self._closing is not None:
            self._advance()
        elif self._waiting or self._group:
            self._plan_commit()

    # -- on the thread

    def _serve(self) -> None:
        while (work := self._handed.get()) is not None:
            group, long = work
            jobs = [*group, *long]
            self._finish(group, long)
            self._post(self._committed, jobs)

    def _finish(self, group: list[Job], long: Sequence[Job]) -> None:
        """Run the long ones too, in the group's transaction, and commit."""
        try:
            for job in long:
                self._execute_patiently(job, group)
                self._post(_settle_executed, job)
            since = time.perf_counter()
            if group:
                self._connection.execute("COMMIT")
                self._commit_s += PATIENCE * (time.perf_counter() - since - self._commit_s)
            self._runner.work.add(0, since)
        except Exception as error:  # every waiter must be answered, whatever broke
            self._lose(group, long, error)

    def _execute_patiently(self, job: Job, group: list[Job]) -> None:
        deadline = time.monotonic() + self._lock_timeout_s
        while True:
            try:
                return self._execute(job, group)
            except sqlite3.Error as error:
                if not _locked(error) or time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_RETRY_S)

    def _post(self, call: Any, argument: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, argument)

    # -- on either

    def _execute(self, job: Job, group: list[Job]) -> None:
        """Run one transaction and add it to the group. sqlite3.Error if the file does not let it begin, or if the group is lost.

        The first of a group needs no savepoint, since there is nothing else to undo: if it fails there is no group. A later one
        that fails stays in it, for its failure may come of what the group is about to commit: its caller is to see that.
        """
        connection = self._connection
        first = not group
        connection.execute("BEGIN IMMEDIATE" if first else "SAVEPOINT job")
        try:
            job.result = self._runner.run(connection, job.tx())
        except Exception as error:  # belongs to the job's caller
            job.error = error if isinstance(error, AgentError) else _wrapped(error)
            if first:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                return
            connection.execute("ROLLBACK TO job")
        group.append(job)
        if not first:
            connection.execute("RELEASE job")

    def _lose(self, group: Sequence[Job], others: Sequence[Job], error: Exception) -> None:
        """Nothing of this is written."""
        jobs = {id(job): job for job in (*group, *others)}.values()
        log.error("a group of %d transactions failed", len(jobs), exc_info=error)
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
        for job in jobs:
            if job.error is None:
                job.error = StoreError(f"The database could not commit: {error}")


def _locked(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _wrapped(error: Exception) -> Exception:
    wrapped = StoreError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _settle_executed(job: Job) -> None:
    if job.executed is not None:
        _answer(job.executed, job)


def _settle(jobs: Sequence[Job]) -> None:
    for job in jobs:
        _settle_executed(job)
        _answer(job.committed, job)


def _answer(future: "asyncio.Future[Any]", job: Job) -> None:
    if future.done():
        return
    if job.error is not None:
        future.set_exception(job.error)
    else:
        future.set_result(job.result)
