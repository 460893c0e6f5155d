"""Which waiting run this process takes up next, when there is room.

Invariant: whatever waits is found by looking at the database; news and our own notes only make us look sooner. Agents take
turns: one with a thousand waiting runs delays another's by one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from perdure.core.errors import AgentError
from perdure.core.ids import now_us
from perdure.runs.capacity import Capacity
from perdure.runs.owners import Owners
from perdure.runs.watch import LEASE_US
from perdure.store import runs as run_store
from perdure.store import submissions
from perdure.store.base import Store
from perdure.store.submissions import Accepted

log = logging.getLogger(__name__)

AT_ONCE = 8
MOST_LOOKED_AT = 64
SPREAD_S = 0.02


class Claiming:
    """`drives`: whether a run of this conversation is driven here. `take`: begin what was claimed. `tell`: let the other
    processes know that a conversation has a run for whoever has room."""

    def __init__(
        self,
        store: Store,
        owners: Owners,
        capacity: Capacity,
        *,
        drives: Callable[[str], bool],
        take: Callable[[Accepted], Awaitable[None]],
        tell: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._owners = owners
        self._capacity = capacity
        self._drives = drives
        self._take = take
        self._tell = tell
        self._spawn = spawn
        self._stopping = stopping
        self._waiting: dict[str, int] = {}
        self._filling = False

    @property
    def waiting(self) -> int:
        """Runs accepted here, or told of, that wait for their conversation."""
        return sum(self._waiting.values())

    def queued(self, conversation_id: str) -> None:
        """A run was accepted here that waits for this conversation, which may be free."""
        self._capacity.queued()
        self._waiting[conversation_id] = self._waiting.get(conversation_id, 0) + 1
        if self._drives(conversation_id):
            return
        if self._capacity.full:
            self._tell(conversation_id)
        else:
            self._spawn(self.claim(conversation_id))

    def told(self, conversation_id: str) -> None:
        """A run that another process accepted waits for this conversation. Who has less to do is faster."""
        if self._drives(conversation_id):
            self._waiting[conversation_id] = self._waiting.get(conversation_id, 0) + 1
        elif not self._capacity.full:
            self._spawn(self._claim_soon(conversation_id))

    def freed(self, conversation_id: str) -> None:
        """Another process gave a conversation back."""
        if self._waiting.get(conversation_id) and not self._capacity.full:
            self._spawn(self.claim(conversation_id))

    async def after(self, conversation_id: str) -> None:
        """A run of this conversation, driven here, is over."""
        if self._capacity.tight:
            await self.fill()
        elif self._waiting.get(conversation_id):
            await self.claim(conversation_id)

    async def fill(self) -> None:
        """Take up what waits, agent by agent, while there is room. One at a time does; what is missed is found again."""
        if self._filling or self._capacity.full:
            return
        self._filling = True
        try:
            while not self._capacity.full and not self._stopping():
                found = await self._owners.orphans(MOST_LOOKED_AT)
                left = [id for id in found if not self._drives(id)]
                claimed = 0
                while left and not self._capacity.full:
                    room = self._capacity.room
                    some = left[: AT_ONCE if room is None else min(room, AT_ONCE)]
                    left = left[len(some) :]
                    claimed += sum(await asyncio.gather(*(self._claim(id, patient=False) for id in some)))
                if not claimed or len(found) < MOST_LOOKED_AT:
                    return
        finally:
            self._filling = False

    async def claim(self, conversation_id: str) -> None:
        """Take up the conversation's next run, if there is one and it is free."""
        if await self._claim(conversation_id) or self._drives(conversation_id):
            return  # what else waits for it is taken up after the run that is driven now
        if self._waiting.pop(conversation_id, None):
            self._tell(conversation_id)  # whoever holds it goes on with it

    async def _claim_soon(self, conversation_id: str) -> None:
        most, room = self._capacity.most, self._capacity.room
        await asyncio.sleep(SPREAD_S * (1 - (room or 0) / most) if most else 0)
        await self._claim(conversation_id, patient=False)

    async def _claim(self, conversation_id: str, *, patient: bool = True) -> bool:
        if self._stopping() or self._capacity.full:
            return False
        dead = await self._owners.dead_owner()
        accepted = await self._store.write(
            lambda: submissions.claim_next(
                conversation_id,
                owner=self._owners.me,
                until=now_us() + LEASE_US,
                now=now_us(),
                dead_owner=dead,
                patient=patient,
            ),
            quick=True,
        )
        if accepted is None:
            return False
        if self._waiting.get(conversation_id):
            self._waiting[conversation_id] -= 1
        await self._take(accepted)
        return True

    async def look(self, every_s: float) -> None:
        """Look for what waits, or is driven by nobody any more, for ever."""
        while True:
            try:
                self._capacity.counted(await self._store.scan(run_store.count_waiting))
                await self.fill()
            except AgentError:
                log.exception("looking for waiting runs failed; trying again")
            await asyncio.sleep(every_s)
