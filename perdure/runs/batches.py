"""Works off batches: each request becomes a run when it is its turn, so many at a time, by one server of the database.

Invariant: all that is known of a batch is in the database; whoever holds the lease goes on where the last one stopped.
"""

import asyncio
import logging
import time

from perdure.core.errors import AgentError
from perdure.core.ids import now_us
from perdure.core.runs import Run
from perdure.runs.provider_batches import ProviderBatches
from perdure.runs.runner import Runner
from perdure.store import batches as batch_store
from perdure.store.base import Store, Tx
from perdure.store.batch_calls import anything_due
from perdure.store.batches import Begun
from perdure.store.commits import StepCommit
from perdure.store.leases import take_named_lease

log = logging.getLogger(__name__)

LEASE = "batches"
LEASE_US = 8_000_000
LOOK_S = 0.5
REST = 3


class Batches:
    """`at_once`: how many of all batches' runs are under way at a time. `providers`: looks after the calls that go through
    providers' own batches."""

    def __init__(self, store: Store, runner: Runner, providers: ProviderBatches, *, at_once: int) -> None:
        self._store = store
        self._providers = providers
        providers.changed = runner.parked = self.wake
        self._runner = runner
        self._at_once = at_once
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._providers.stop()

    def wake(self) -> None:
        """A batch was handed in, or something of one has ended."""
        self._wake.set()

    def committed(self, run: Run, commit: StepCommit) -> None:
        if commit.end is not None and run.metadata is not None and run.metadata.get("run_type") == "batch":
            self._wake.set()

    async def cancel(self, batch_id: str) -> None:
        """End it: what waits never begins, what is under way is cancelled. NotFound, Conflict."""
        for run_id in await self._store.write(lambda: batch_store.cancel_batch(batch_id, now_us())):
            await self._runner.cancel(run_id)
        self._wake.set()

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            began = time.perf_counter()
            try:
                while await self._store.read(batch_store.batches_going) and await self._work():
                    pass
                if await self._store.read(lambda: anything_due(now_us())) and await self._lead():
                    await self._providers.look()
            except AgentError:
                log.exception("working off batches failed; trying again")
            # a look costs as much as there are requests under way: with thousands of them others must get their turn
            await asyncio.sleep(REST * (time.perf_counter() - began))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _lead(self) -> bool:
        """Whether this server works batches off, and no other."""
        now = now_us()
        owner = self._runner.owner
        return await self._store.write(lambda: take_named_lease(LEASE, owner, until=now + LEASE_US, now=now))

    async def _work(self) -> bool:
        """Settle what has ended and begin what comes next; False if there was neither."""
        now = now_us()

        def tx() -> Tx[tuple[int, list[Begun]]]:
            if not (yield from take_named_lease(LEASE, self._runner.owner, until=now + LEASE_US, now=now)):
                return 0, []
            settled = yield from batch_store.settle_items(now)
            return settled, (yield from batch_store.begin_items(self._at_once, now))

        settled, begun = await self._store.write(tx)
        for each in begun:
            self._runner.queued(each.conversation_id)
        if settled:
            self._runner.callbacks.look()
        return settled > 0
