"""Watches over leases: renews those of the runs driven here, and finds the runs that nobody drives any more.

Invariant: a run whose process died is found within its lease's time and a sweep, whoever notices first.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
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
    """`jobs` and `logs` are the runner's own, by run id. `claim`: take up a conversation's next run. `cancel`: end a run here."""

    def __init__(
        self,
        store: Store,
        remote: Remote,
        owner: str,
        *,
        jobs: Mapping[str, Driven],
        logs: Mapping[str, RunLog],
        claim: Callable[[str], Awaitable[None]],
        cancel: Callable[[str], object],
    ) -> None:
        self._store = store
        self._remote = remote
        self._owner = owner
        self._jobs = jobs
        self._logs = logs
        self._claim = claim
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
                    lambda held=held, now=now: run_store.renew_leases(held, self._owner, now + LEASE_US, now)
                )
                if self._remote.shared:  # a cancellation's news may have been lost
                    for run_id in await self._store.read(run_store.cancel_requests):
                        self._stop_job(run_id)
            except StoreError:
                log.exception("renewing leases failed; trying again")

    async def sweep(self) -> None:
        while True:
            try:
                if self._remote.shared:
                    await self._let_go_of_taken()
                for conversation_id in await self._orphans():
                    if not any(job.conversation_id == conversation_id for job in self._jobs.values()):
                        await self._claim(conversation_id)
            except AgentError:
                log.exception("looking for interrupted runs failed; trying again")
            await asyncio.sleep(SWEEP_S)

    async def _let_go_of_taken(self) -> None:
        """Runs queued from here that another process took up, where its news was lost."""
        waiting = [id for id, runlog in self._logs.items() if not runlog.ended and id not in self._jobs]
        for run_id in waiting:
            run = await self._store.read(lambda run_id=run_id: run_store.run_by_id(run_id))
            if run.status != "created":
                self._remote.driven_elsewhere(run_id)

    async def _orphans(self) -> list[str]:
        found: list[str] = []
        for dead in await self._dead_owners():
            found += await self._store.read(lambda dead=dead: run_store.orphaned_conversations(now_us(), dead))
        return list(dict.fromkeys(found))

    async def _dead_owners(self) -> list[str]:
        """Lease owners on this host whose process is gone (their leases need not run out), and "" for none in particular.

        Where several machines share a database, two of them may go by one name: there only the lease's time counts.
        """
        if self._remote.shared:
            return [""]
        owners = await self._store.read(run_store.lease_owners)
        return ["", *(owner for owner in owners if owner != self._owner and is_dead(owner))]

    async def dead_owner(self, conversation_id: str) -> str:
        owners = await self._dead_owners()
        return owners[-1] if len(owners) > 1 else ""


def is_dead(owner: str) -> bool:
    """True only if the owner is a process of this host that does not exist any more."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(pid) == os.getpid()  # our own pid under another name: the process before us had it
