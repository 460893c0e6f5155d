"""Who holds leases, and which of them are dead.

Invariant: an owner is called dead only if it is a process of this host that does not exist any more, and nobody else can go by
its name.
"""

import os
import socket
import time
import uuid

from perdure.core.ids import now_us
from perdure.store import runs as run_store
from perdure.store.base import Store

FRESH_S = 0.5


class Owners:
    """`me`: the name this process takes leases by."""

    def __init__(self, store: Store) -> None:
        self.me = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._store = store
        self._known = [""]
        self._looked_at = -FRESH_S

    async def orphans(self, limit: int) -> list[str]:
        """Conversations with runs that nobody drives, at most `limit`, agents in turn."""
        found: list[str] = []
        for dead in await self._dead():
            found += await self._store.scan(
                lambda dead=dead: run_store.orphaned_conversations(now_us(), dead, limit=limit)
            )
        return list(dict.fromkeys(found))[:limit]

    async def dead_owner(self) -> str:
        """A dead one that holds leases; "" if there is none."""
        return (await self._dead())[-1]

    async def _dead(self) -> list[str]:
        """Lease owners on this host whose process is gone (their leases need not run out), and "" for none in particular.

        Where several machines share a database, two of them may go by one name: there only the lease's time counts.
        """
        if self._store.signals.shared:
            return [""]
        now = time.monotonic()
        if now - self._looked_at >= FRESH_S:  # with thousands of waiting runs it costs milliseconds
            self._looked_at = now
            owners = await self._store.scan(run_store.lease_owners)
            self._known = ["", *(owner for owner in owners if owner != self.me and is_dead(owner))]
        return self._known


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
