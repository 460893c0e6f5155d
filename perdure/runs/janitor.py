"""Deletes what the settings say is not kept any longer: event logs, traces, callbacks, request keys, ticks,
finished batches.

Invariant: one process of a database does it at a time, in small transactions, and never touches a message or a token record.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from perdure.core.errors import AgentError
from perdure.core.ids import now_us
from perdure.store import retention
from perdure.store.base import Store, Tx
from perdure.store.leases import give_back_named_lease, take_named_lease
from perdure.store.submissions import KEY_LIFE_US

log = logging.getLogger(__name__)

LEASE = "janitor"
LEASE_US = 60_000_000
ROUND_S = 60.0
PAUSE_S = 0.02  # between two transactions, for those who wait to write
ACCEPTANCE_US = 5_000_000  # a run is in the database at most so long after its time of creation


class Kept(Struct, frozen=True, kw_only=True):
    """How long things are kept after they ended, in seconds. None: for ever."""

    events_s: float | None = None
    traces_s: float | None = None
    callbacks_s: float | None = None
    ticks_s: float | None = None
    batches_s: float | None = None

    @property
    def round_s(self) -> float:
        """How often to look: what is kept for a short time only should not stay for much longer."""
        every = (self.events_s, self.traces_s, self.callbacks_s, self.ticks_s, self.batches_s)
        shortest = min((kept for kept in every if kept), default=ROUND_S)
        return min(max(shortest / 4, 0.5), ROUND_S)


class Janitor:
    def __init__(self, store: Store, owner: str, kept: Kept) -> None:
        self._store = store
        self._owner = owner
        self._kept = kept
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._rounds())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(self._kept.round_s)
            try:
                await self.clean()
            except AgentError:
                log.exception("deleting what is not kept any longer failed; trying again")

    async def clean(self) -> bool:
        """One round; False if another process is at it."""
        if not await self._hold():
            return False
        now = now_us()
        if (events_s := self._kept.events_s) is not None:
            before = now - _us(events_s) - ACCEPTANCE_US
            await self._drain(lambda: retention.expire_events(before))
            await self._drain(lambda: retention.expire_events_left(before))
        if (traces_s := self._kept.traces_s) is not None:
            await self._drain(lambda: retention.expire_traces(now - _us(traces_s) - ACCEPTANCE_US))
            await self._drain(lambda: retention.expire_trace_bases(now - _us(traces_s) - ACCEPTANCE_US))
        if (callbacks_s := self._kept.callbacks_s) is not None:
            await self._drain(lambda: retention.expire_callbacks(now - _us(callbacks_s)))
        await self._drain(lambda: retention.expire_request_keys(now - KEY_LIFE_US))
        if (ticks_s := self._kept.ticks_s) is not None:
            await self._expire_ticks(now - _us(ticks_s))
        if (batches_s := self._kept.batches_s) is not None:
            await self._drain(lambda: retention.expire_batches(now - _us(batches_s)))
        await self._store.write(lambda: give_back_named_lease(LEASE, self._owner))
        return True

    async def _hold(self) -> bool:
        now = now_us()
        return await self._store.write(lambda: take_named_lease(LEASE, self._owner, until=now + LEASE_US, now=now))

    async def _drain(self, chunk: Callable[[], Tx[bool]]) -> None:
        """Chunk after chunk until there is no more; a round that takes long keeps its lease."""
        held = now_us()
        while await self._store.write(chunk):
            if now_us() - held > LEASE_US // 4:
                if not await self._hold():
                    return
                held = now_us()
            await asyncio.sleep(PAUSE_S)

    async def _expire_ticks(self, before: int) -> None:
        after = ""
        while found := await self._store.read(partial(retention.schedule_ids, after)):
            for schedule_id in found:
                await self._store.write(partial(retention.expire_ticks, schedule_id, before))
                await asyncio.sleep(PAUSE_S)
            after = found[-1]


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
