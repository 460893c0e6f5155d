"""Reading a run's events from anywhere, whoever drives it: what is stored, then live until it ends.

Invariant: a follower gets every event after its place once, in order, whether they come from the log kept here or from the
database, and whichever process takes the run up meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing

from perdure.core.events import Event, LogEnded
from perdure.core.runs import Run
from perdure.runs.log import RunLog
from perdure.runs.mirror import Mirrors
from perdure.runs.remote import Remote
from perdure.store import events as event_store
from perdure.store import runs as run_store
from perdure.store.base import Store


class Following:
    """`logs`: the run logs kept here. `mirrors`: of the runs that others drive. `stopping`: whether this process shuts down,
    when followers are let go."""

    def __init__(
        self,
        store: Store,
        remote: Remote,
        mirrors: Mirrors,
        logs: Mapping[str, RunLog],
        *,
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._remote = remote
        self._logs = logs
        self._stopping = stopping
        self._mirrors = mirrors

    async def follow(
        self, run_id: str, after: int = 0, *, idle_s: float | None = None
    ) -> AsyncIterator[tuple[int, list[Event]]]:
        """(seq of the first, events) with seq > `after`. NotFound.

        With `idle_s`, an empty batch comes after that long without events.
        """
        while True:
            runlog = self._logs.get(run_id)
            if runlog is None or (runlog.ended and after >= runlog.last_seq):
                live = self._mirrors.follow(run_id, after, idle_s=idle_s)
            else:
                if after < runlog.base and (stored := await self._stored(run_id, after, up_to=runlog.base)):
                    yield stored[0][0], [event for _, event in stored]
                    after = stored[-1][0]
                live = runlog.follow(after, idle_s=idle_s)
            last: Event | None = None
            async with aclosing(live):
                async for first, events in live:
                    yield first, events
                    if events:
                        after, last = first + len(events) - 1, events[-1]
            if isinstance(last, LogEnded) or self._stopping():
                return
            if (await self._run(run_id)).ended:
                if rest := await self._stored(run_id, after):
                    yield rest[0][0], [event for _, event in rest]
                return

    async def outcome(self, run_id: str) -> list[Event]:
        """All events of a run, once it has ended."""
        runlog = self._logs.get(run_id)
        if runlog is not None and runlog.base == 0:
            events = await runlog.until_ended()
            if events and isinstance(events[-1], LogEnded):
                return events
        found: list[Event] = []
        async for _, batch in self.follow(run_id):
            found.extend(batch)
        return found

    async def ended_elsewhere(self, run_id: str, within_s: float = 5.0) -> None:
        """Wait for the end of a run that another process drives. One whose process is gone ends when it is taken over."""
        deadline = _now() + within_s
        while _now() < deadline and not (await self._run(run_id)).ended:
            await self._remote.news(run_id)

    async def _run(self, run_id: str) -> Run:
        return await self._store.read(lambda: run_store.run_by_id(run_id))

    async def _stored(self, run_id: str, after: int, *, up_to: int | None = None) -> list[tuple[int, Event]]:
        found = await self._store.scan(lambda: event_store.events_after(run_id, after))
        return found if up_to is None else [(seq, event) for seq, event in found if seq <= up_to]


def _now() -> float:
    return asyncio.get_running_loop().time()
