"""The live event log of one run in this process: appended by its worker, followed by anyone.

Events are numbered from 1 with no gap. A follower sees every event once, in order, from wherever it starts.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable

from perdure.core.events import Event, LogEnded

KEPT_LOGS = 1000
KEPT_EVENTS = 50_000


class RunLog:
    """`base`: how many events came before the ones held here (a run resumed after a crash has its first ones stored)."""

    def __init__(self, run_id: str, base: int = 0) -> None:
        self.run_id = run_id
        self.base = base
        self.events: list[Event] = []
        self.saved = base
        self.ended = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def last_seq(self) -> int:
        return self.base + len(self.events)

    def append(self, events: Iterable[Event]) -> None:
        self.events.extend(events)
        if self.events and isinstance(self.events[-1], LogEnded):
            self.ended = True
        self._wake()

    def abandon(self) -> None:
        """The worker is gone and will not finish this log here; followers stop waiting."""
        self.ended = True
        self._wake()

    def unsaved(self) -> list[Event]:
        return self.events[self.saved - self.base :]

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until_ended(self) -> list[Event]:
        while not self.ended:
            await self._next()
        return self.events

    def _next(self) -> "asyncio.Future[None]":
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def follow(self, after: int = 0, *, idle_s: float | None = None) -> AsyncGenerator[tuple[int, list[Event]]]:
        """Batches of (seq of the first, events) with seq > `after` (at least `base`), until the log ends.

        With `idle_s`, an empty batch comes whenever nothing was appended for that long.
        """
        at = max(after - self.base, 0)
        idle = _IdleTimer(idle_s) if idle_s is not None else None
        try:
            while True:
                if at < len(self.events):
                    batch = self.events[at:]
                    yield self.base + at + 1, batch
                    at += len(batch)
                elif self.ended:
                    return
                else:
                    waiter = self._next()
                    if idle is None:
                        await waiter
                    elif await idle.wait(waiter):
                        yield self.base + at + 1, []
        finally:
            if idle is not None:
                idle.stop()


class Logs(OrderedDict[str, RunLog]):
    """By run id: whatever has not ended, and the newest of what has. What is gone from here is in the database."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: dict[str, int] = {}  # how many events they hold, those that ended first coming first
        self._events = 0

    def __delitem__(self, run_id: str) -> None:
        super().__delitem__(run_id)
        self._events -= self._ended.pop(run_id, 0)

    def keep(self, runlog: RunLog) -> RunLog:
        if runlog.run_id in self:
            del self[runlog.run_id]
        self[runlog.run_id] = runlog
        while len(self) > KEPT_LOGS:
            oldest, kept = next(iter(self.items()))
            if not kept.ended:
                break
            del self[oldest]
        return runlog

    def over(self, runlog: RunLog) -> None:
        """It has ended here. Long answers have many events: those that ended first make room for it."""
        if self.get(runlog.run_id) is not runlog:
            return
        self._events += len(runlog.events) - self._ended.pop(runlog.run_id, 0)
        self._ended[runlog.run_id] = len(runlog.events)
        while self._events > KEPT_EVENTS:
            del self[next(iter(self._ended))]


class _IdleTimer:
    """Wakes one follower after `idle_s` without news; re-armed when it fires, not at every wait, so it costs nothing a token."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._waiter: asyncio.Future[None] | None = None
        self._fired = False
        self._handle = self._loop.call_later(idle_s, self._check)

    async def wait(self, waiter: "asyncio.Future[None]") -> bool:
        """Until `waiter` is done; True if it was the timer that ended the wait."""
        self._waiter = waiter
        self._fired = False
        await waiter
        self._waiter = None
        self._since = self._loop.time()
        return self._fired

    def _check(self) -> None:
        left = self._since + self._idle_s - self._loop.time()
        if left <= 0.001:
            left = self._idle_s
            if self._waiter is not None and not self._waiter.done():
                self._fired = True
                self._waiter.set_result(None)
        self._handle = self._loop.call_later(left, self._check)

    def stop(self) -> None:
        self._handle.cancel()
