"""The runs that one process drives now, each a task.

Invariant: of one conversation only one takes steps; the next begins when the one before is through.
"""

import asyncio

from perdure.runs.watch import LEASE_US


class Job:
    """One run this process drives."""

    __slots__ = ("_before", "cancelled", "conversation_id", "task")

    def __init__(self, conversation_id: str, before: "Job | None") -> None:
        self.conversation_id = conversation_id
        self._before = before
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None

    async def until_first(self) -> None:
        """Wait for the conversation's run before this one, which has given its lease back but may still be taking its last
        step into the context. One that hangs after it lost its lease is not waited for long."""
        before, self._before = self._before, None
        if before is not None and before.task is not None:
            await asyncio.wait([before.task], timeout=LEASE_US / 1e6)
