"""A background job that is done again whenever somebody asks for it.

Invariant: a round that begins after the asking serves it, so asking is never lost and never doubles the work.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

AFTER_FAILURE_S = 60.0


class Rounds:
    def __init__(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._job = job
        self._asked = 0
        self._served = 0
        self._wake = asyncio.Event()
        self._done = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def ask(self) -> int:
        """Answers what `served` takes."""
        self._asked += 1
        self._wake.set()
        return self._asked

    def ask_in(self, delay_s: float) -> None:
        asyncio.get_running_loop().call_later(delay_s, self.ask)

    async def served(self, asked: int, timeout_s: float) -> None:
        """Until a round that began after the asking is done, or that long."""
        if self._task is None or self._task.done():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._done:
                await self._done.wait_for(lambda: self._served >= asked)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked = self._asked
            try:
                await self._job()
            except Exception:  # the next round may go better; whoever waits does without
                log.exception("%s failed", self._name)
                self.ask_in(AFTER_FAILURE_S)
            self._served = asked
            async with self._done:
                self._done.notify_all()
