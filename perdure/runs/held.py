"""The events of a run that outlives its request, on their way to its followers: stored first, shown then.

Invariant: what a follower has seen is in the database, under the number it was seen by, so that a stream taken up again after a
crash has no gap and repeats nothing. Stored in batches, 50 ms apart.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from perdure.core.errors import AgentError
from perdure.core.events import Event
from perdure.runs.log import RunLog
from perdure.store import events as event_store
from perdure.store.base import Store, Tx
from perdure.store.commits import EventChunk
from perdure.store.events import save_events
from perdure.store.runs import Lease

log = logging.getLogger(__name__)

APART_S = 0.05

OnCommit = Callable[[str, EventChunk | None], None]
"""Told a run's id and the events of it that were stored."""


class HeldEvents:
    """Between the worker, who adds, and the log. `on_saved`: told of each batch."""

    def __init__(self, store: Store, lease: Lease, runlog: RunLog, *, on_saved: OnCommit) -> None:
        self._store = store
        self._lease = lease
        self._log = runlog
        self._on_saved = on_saved
        self._events: list[Event] = []
        self._task: asyncio.Task[None] | None = None
        self._saving = False
        self._last_s = 0.0

    def add(self, events: Sequence[Event]) -> None:
        self._events.extend(events)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_saving())

    async def flush(self) -> None:
        """Store what was added so far without waiting for more. Returns when it is stored, or cannot be for now."""
        if self._task is not None and not self._saving:
            self._task.cancel()
            self._task = None
        self._last_s = 0.0
        if self._events and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_saving())
        if self._task is not None:
            await asyncio.wait([self._task])

    async def take(self) -> list[Event]:
        """What is not stored yet, for the commit of the step: it shows it."""
        task, self._task = self._task, None
        if task is not None:
            if not self._saving:
                task.cancel()
            await asyncio.wait([task])
        events, self._events = self._events, []
        return events

    async def _keep_saving(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._events:
            await asyncio.sleep(max(0.0, self._last_s + APART_S - clock()))
            self._saving = True
            saved = await self._save()
            self._saving = False
            self._last_s = clock()
            if self._task is not asyncio.current_task():
                return  # taken: the rest goes with the step
            if not saved:
                break
        self._task = None

    async def _save(self) -> bool:
        events, self._events = self._events, []
        chunk = event_store.chunk(self._log.saved + 1, [*self._log.unsaved(), *events])
        attempts = 0

        def tx() -> Tx[None]:
            nonlocal attempts
            attempts += 1
            return save_events(self._lease, chunk, again=attempts > 1)

        try:
            await self._store.write(tx, repeatable=True, quick=True)
        except AgentError as error:  # they go with the step's commit, which fails loudly if it has to
            log.warning("events of run %s are not stored yet: %s", self._log.run_id, error.message)
            self._events[:0] = events
            return False
        self._log.append(events)
        self._log.saved = self._log.last_seq
        self._on_saved(self._log.run_id, chunk)
        return True
