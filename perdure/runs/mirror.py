"""Runs that other processes drive, as they are followed here: one reader of the log each, however many follow.

Invariant: a mirror holds the log's stored events in order with no gap, whether they were read or came with the news; it is
given up with its last follower.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from perdure.core.events import Event
from perdure.runs.log import RunLog
from perdure.store import events as event_store
from perdure.store import runs as run_store
from perdure.store.base import Store
from perdure.store.commits import EventChunk

LOOK_S = 0.1
LOOK_WITH_NEWS_S = 1.0


class _Mirror:
    __slots__ = ("fed", "followers", "news", "runlog", "task")

    def __init__(self, runlog: RunLog) -> None:
        self.runlog = runlog
        self.followers = 0
        self.news = asyncio.Event()
        self.fed = False
        self.task: asyncio.Task[None] | None = None


class Mirrors:
    """`driven`: whether a run is driven here by now."""

    def __init__(self, store: Store, *, driven: Callable[[str], bool]) -> None:
        self._store = store
        self._look_s = LOOK_WITH_NEWS_S if store.signals.shared else LOOK_S
        self._driven = driven
        self._mirrors: dict[str, _Mirror] = {}
        self._closed = False

    async def follow(
        self, run_id: str, after: int, *, idle_s: float | None = None
    ) -> AsyncGenerator[tuple[int, list[Event]]]:
        """Batches as `RunLog.follow` gives them, until the run has ended or is driven here. StoreError, NotFound."""
        mirror = self._mirrors.get(run_id)
        if mirror is None or mirror.runlog.ended:
            mirror = self._mirrors[run_id] = _Mirror(RunLog(run_id, base=after))
            mirror.task = asyncio.create_task(self._read(mirror))
        mirror.followers += 1
        try:
            if after < mirror.runlog.base:  # it was begun by one who had seen more
                base = mirror.runlog.base
                stored = await self._store.scan(lambda: event_store.events_after(run_id, after))
                if earlier := [event for seq, event in stored if seq <= base]:
                    yield after + 1, earlier
                    after = base
            async with aclosing(mirror.runlog.follow(after, idle_s=idle_s)) as batches:
                async for first, events in batches:
                    yield first, events
        finally:
            mirror.followers -= 1
            if not mirror.followers:
                self._give_up(mirror)
        if mirror.task is not None and mirror.task.done() and not mirror.task.cancelled():
            mirror.task.result()  # what ended it is this follower's end too

    def heard(self, run_id: str) -> None:
        """There is news of a run."""
        mirror = self._mirrors.get(run_id)
        if mirror is None:
            return
        if mirror.fed:  # it came with its events
            mirror.fed = False
        else:
            mirror.news.set()

    def feed(self, run_id: str, chunk: EventChunk) -> None:
        """Events that come with the news of them."""
        mirror = self._mirrors.get(run_id)
        if mirror is not None and chunk.first_seq <= mirror.runlog.last_seq + 1:
            mirror.fed = True
            _append(mirror.runlog, event_store.events_of(chunk.first_seq, chunk.body))

    def look(self) -> None:
        """News may have been missed."""
        for mirror in self._mirrors.values():
            mirror.news.set()

    def close(self) -> None:
        """Let all followers go; those that come now are told what is stored, and no more."""
        self._closed = True
        for mirror in list(self._mirrors.values()):
            self._give_up(mirror)
            mirror.runlog.abandon()

    def _give_up(self, mirror: _Mirror) -> None:
        if self._mirrors.get(mirror.runlog.run_id) is mirror:
            del self._mirrors[mirror.runlog.run_id]
        if mirror.task is not None:
            mirror.task.cancel()

    async def _read(self, mirror: _Mirror) -> None:
        runlog = mirror.runlog
        run_id = runlog.run_id
        try:
            while not runlog.ended and not self._driven(run_id):
                mirror.news.clear()
                run = await self._store.read(lambda: run_store.run_by_id(run_id))
                _append(runlog, await self._store.scan(lambda: event_store.events_after(run_id, runlog.last_seq)))
                if run.ended or runlog.ended or self._closed:
                    return
                try:
                    async with asyncio.timeout(self._look_s):
                        await mirror.news.wait()
                except TimeoutError:
                    pass
        finally:
            runlog.abandon()


def _append(runlog: RunLog, stored: list[tuple[int, Event]]) -> None:
    """What is new of it: the other way may have been faster."""
    if new := [event for seq, event in stored if seq > runlog.last_seq]:
        runlog.append(new)
