"""The record of one run's calls while they are under way. Implements `tools.base.Journal`.

Invariant: what is kept here is kept under the run's lease; `open` says whether the next commit has to settle it.
"""

import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from perdure.core.begun import Begun
from perdure.core.errors import AgentError
from perdure.core.messages import ToolReturn
from perdure.runs.shielding import shielded
from perdure.store.base import Store, Write
from perdure.store.begun import keep_intent, keep_receipt
from perdure.store.runs import Lease

MOST_EXCHANGE = 65_536  # bytes; a larger trace is not worth keeping twice


class StepJournal:
    """`before`: what is to be stored first. Whoever finishes the step shows only what the calls return."""

    def __init__(self, store: Store, lease: Lease, *, before: Callable[[], Awaitable[None]]) -> None:
        self._before = before
        self._store = store
        self._lease = lease
        self.open = False
        self._receipts: list[Write] = []

    async def begin(self, begun: Begun) -> None:
        kept = _without_large_trace(begun)
        await self._before()
        self.open = True
        await shielded(self._store.write(lambda: keep_intent(self._lease, kept), repeatable=True, quick=True))

    def returned(self, step_id: str, answer: ToolReturn) -> None:
        self._receipts.append(self._store.begin_write(lambda: keep_receipt(self._lease, step_id, answer), lazy=True))

    async def at_rest(self) -> None:
        """Returns once nothing is being written here any more: on PostgreSQL it could come after the commit that settles it."""
        receipts, self._receipts = self._receipts, []
        for write in receipts:
            with contextlib.suppress(AgentError):  # the step's own commit holds what the call returned
                await write.executed


def _without_large_trace(begun: Begun) -> Begun:
    done = begun.done
    if done is None or done.exchange is None:
        return begun
    if len(done.exchange.request) + len(done.exchange.response) <= MOST_EXCHANGE:
        return begun
    return msgspec.structs.replace(begun, done=msgspec.structs.replace(done, exchange=None))
