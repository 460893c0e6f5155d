"""What the other server processes of the same database do with the runs that are followed or waited for here.

Invariant: news only makes us look sooner; without any, everyone looks at the database again after a moment.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from perdure.runs.log import RunLog
from perdure.runs.mirror import LOOK_S, LOOK_WITH_NEWS_S, Mirrors
from perdure.store.commits import EventChunk
from perdure.store.signals import Kind, Signals


class Claims(Protocol):
    """Who takes up waiting runs here: told of conversations that have room, or a run, for whoever wants it."""

    def freed(self, conversation_id: str) -> None: ...

    def told(self, conversation_id: str) -> None: ...


class Remote:
    """`logs`: the run logs kept here. `driven`: whether this process drives a run. `cancel`: end one that it does.
    `mirrors`: the runs followed here that others drive."""

    def __init__(
        self,
        signals: Signals,
        *,
        logs: dict[str, RunLog],
        driven: Callable[[str], bool],
        cancel: Callable[[str], object],
        mirrors: Mirrors,
    ) -> None:
        self._signals = signals
        self._logs = logs
        self._driven = driven
        self._cancel = cancel
        self._mirrors = mirrors
        self._claims: Claims | None = None
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    @property
    def shared(self) -> bool:
        return self._signals.shared

    async def start(self, claims: Claims) -> None:
        self._claims = claims
        await self._signals.start(self._heard, self._mirrors.feed)

    def committed(self, run_id: str, chunk: EventChunk | None) -> None:
        """A step, or the end, of a run driven here is in the database, with these events."""
        self._signals.publish("events", run_id, chunk)

    def freed(self, conversation_id: str) -> None:
        """A conversation that was held here has room for its next run."""
        self._signals.publish("freed", conversation_id)

    def queued(self, conversation_id: str) -> None:
        """A run waits for a conversation, and nobody here can take it up."""
        self._signals.publish("queued", conversation_id)

    def cancel_requested(self, run_id: str) -> None:
        self._signals.publish("cancel", run_id)

    async def news(self, run_id: str, *, within_s: float | None = None) -> None:
        """Until something may have happened to a run that is driven elsewhere, or `within_s` is over."""
        look_s = LOOK_WITH_NEWS_S if self.shared else LOOK_S
        waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(run_id, set())
        waiters.add(waiter)
        try:
            async with asyncio.timeout(look_s if within_s is None else min(look_s, within_s)):
                await waiter
        except TimeoutError:
            pass
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(run_id, None)

    def _heard(self, kind: Kind, id: str) -> None:
        match kind:
            case "events":
                self.driven_elsewhere(id)
                self._wake(id)
                self._mirrors.heard(id)
            case "cancel":
                if self._driven(id):
                    self._cancel(id)
            case "freed":
                if self._claims is not None:
                    self._claims.freed(id)
            case "queued":
                if self._claims is not None:
                    self._claims.told(id)
            case "providers" | "limits":
                pass  # not about runs
            case "resync":
                for run_id in list(self._waiting):
                    self._wake(run_id)
                self._mirrors.look()

    def driven_elsewhere(self, run_id: str) -> None:
        """A run that was queued from here was taken up by another process: its log here will never be written."""
        runlog = self._logs.get(run_id)
        if runlog is not None and not runlog.ended and not self._driven(run_id):
            del self._logs[run_id]
            runlog.abandon()

    def _wake(self, run_id: str) -> None:
        for waiter in self._waiting.get(run_id, ()):
            if not waiter.done():
                waiter.set_result(None)
