"""Ending runs on demand, wherever they are: waiting, driven here or elsewhere, or parked with their calls undecided.

Invariant: the wish is in the database before anyone is told, so that whoever takes the run up later honours it too.
"""

import asyncio
from collections.abc import Callable

from perdure.core.ids import now_us
from perdure.core.runs import Run
from perdure.runs.context import Contexts
from perdure.runs.following import Following
from perdure.runs.jobs import Jobs
from perdure.runs.log import Logs
from perdure.runs.remote import Remote
from perdure.store import runs as run_store
from perdure.store.approvals import cancel_parked
from perdure.store.base import Store

WAIT_S = 5.0


class Cancelling:
    def __init__(
        self,
        store: Store,
        remote: Remote,
        following: Following,
        jobs: Jobs,
        logs: Logs,
        contexts: Contexts,
        *,
        freed: Callable[[str], None],
    ) -> None:
        """`freed`: told of a conversation whose run can be taken up again."""
        self._store = store
        self._remote = remote
        self._following = following
        self._jobs = jobs
        self._logs = logs
        self._contexts = contexts
        self._freed = freed

    async def cancel(self, run_id: str) -> str:
        """What came of it: "cancelled", or "ended" (before it could be). NotFound."""
        run = await self._store.read(lambda: run_store.run_by_id(run_id))
        if run.ended:
            return await self._cancel_parked(run)
        outcome = await self._store.write(lambda: run_store.request_cancel(run_id, now_us()), quick=True)
        task = self._jobs.stop(run_id)
        if outcome == "requested" and task is not None:
            await asyncio.wait([task], timeout=WAIT_S)
        elif outcome in ("requested", "freed"):
            self._freed(run.conversation_id) if outcome == "freed" else self._remote.cancel_requested(run_id)
            await self._following.ended_elsewhere(run_id, WAIT_S)
        elif outcome == "cancelled":
            if (runlog := self._logs.get(run_id)) is not None:
                runlog.abandon()
            self._remote.committed(run_id, None)
        return "cancelled" if outcome != "ended" else "ended"

    async def _cancel_parked(self, run: Run) -> str:
        """A run that stopped to wait for approval can still be cancelled: that denies what it asked for."""
        if run.stop_reason != "requires_approval":
            return "ended"
        denied = await self._store.write(lambda: cancel_parked(run, now_us()), quick=True)
        if denied:
            self._contexts.forget(run.conversation_id)
        return "cancelled" if denied else "ended"
