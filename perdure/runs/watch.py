"""Watches over leases: renews those of the runs driven here, and lets go of the runs that another process drives.

Invariant: a lease is renewed well before its time, and a cancellation is noticed within a beat though its news was lost.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from perdure.core.errors import AgentError, StoreError
from perdure.core.ids import now_us
from perdure.runs.log import RunLog
from perdure.runs.remote import Remote
from perdure.store import runs as run_store
from perdure.store.base import Store

log = logging.getLogger(__name__)

LEASE_US = 8_000_000
BEAT_S = 2.0
SWEEP_S = 1.0


class Driven(Protocol):
    """A run that is driven here."""

    conversation_id: str


class Watch:
    """`jobs` and `logs` are the runner's own, by run id. `cancel`: end a run here."""

    def __init__(
        self,
        store: Store,
        remote: Remote,
        owner: str,
        *,
        jobs: Mapping[str, Driven],
        logs: Mapping[str, RunLog],
        cancel: Callable[[str], object],
    ) -> None:
        self._store = store
        self._remote = remote
        self._owner = owner
        self._jobs = jobs
        self._logs = logs
        self._stop_job = cancel

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            if not self._jobs:
                continue
            held = {job.conversation_id for job in self._jobs.values()}
            now = now_us()
            try:
                await self._store.write(
                    lambda held=held, now=now: run_store.renew_leases(held, self._owner, now + LEASE_US, now),
                    quick=True,
                )
                if self._remote.shared:  # a cancellation's news may have been lost
                    for run_id in await self._store.read(run_store.cancel_requests):
                        self._stop_job(run_id)
            except StoreError:
                log.exception("renewing leases failed; trying again")

    async def let_go(self) -> None:
        """Look, for ever, for runs queued from here that another process took up, where its news was lost."""
        while self._remote.shared:
            try:
                await self._let_go_of_taken()
            except AgentError:
                log.exception("looking for runs driven elsewhere failed; trying again")
            await asyncio.sleep(SWEEP_S)

    async def _let_go_of_taken(self) -> None:
        waiting = [id for id, runlog in self._logs.items() if not runlog.ended and id not in self._jobs]
        for run_id in waiting:
            run = await self._store.read(lambda run_id=run_id: run_store.run_by_id(run_id))
            if run.status != "created":
                self._remote.driven_elsewhere(run_id)
