"""Keeps the limits of providers over all processes of a database: reports what is used here, and asks for a share of the rest.

A share is asked for every second, and at once when a call waits for one or another process does. Invariant: while the database is
away a process goes on with the share it has, for as long as that is its own, and then begins no call.
"""

import asyncio
import contextlib
import logging
import os
import time
import uuid
from functools import partial

from perdure.core.errors import AgentError
from perdure.providers.limits import Gate, Limits
from perdure.providers.shared_gate import SharedGate
from perdure.providers.shares import leave, settle
from perdure.store.base import Store
from perdure.store.shared_limits import change_book
from perdure.store.signals import Kind

log = logging.getLogger(__name__)

BEAT_S = 1.0
GATHER_S = 0.005
LONGEST_GAP_S = 0.25  # between asking in vain and asking again because yet another call waits
REMIND_S = 0.25


class SharedLimits:
    """`gate` makes those whose limits are shared; nothing happens in the database before there is one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owner = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._gates: dict[str, SharedGate] = {}
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._gap_s = GATHER_S
        self._reminded_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def gate(self, name: str, limits: Limits) -> Gate:
        """`name`: the provider; "" for all together."""
        if not limits:
            return Gate(limits)
        made = self._gates[name] = SharedGate(limits, self._look)
        return made

    async def start(self) -> None:
        await self._store.signals.start(self._hear)
        self._task = asyncio.create_task(self._share_for_ever())

    async def stop(self) -> None:
        """Give everything back. To be called when no model is called any more."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self._gates:
            return
        try:
            async with asyncio.timeout(2):
                await self._sync()
                await self._store.write(partial(change_book, lambda body, _: (leave(body, self._owner), None)))
            self._store.signals.publish("limits", "")
        except (AgentError, TimeoutError) as error:  # the lease ends by itself
            log.warning("shares of providers' limits could not be given back: %s", error)

    def _hear(self, kind: Kind, _id: str) -> None:
        if kind in ("limits", "resync"):
            self._look(True)

    def _look(self, urgent: bool) -> None:
        self._wake.set()
        if urgent:
            self._urgent.set()

    async def _share_for_ever(self) -> None:
        while True:
            await _happens(self._wake, BEAT_S)
            await _happens(self._urgent, self._gap_s)
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            self._urgent.clear()
            if self._gates:
                try:
                    await self._sync()
                except AgentError:
                    log.exception("sharing the providers' limits failed; trying again")
                    await asyncio.sleep(REMIND_S)

    async def _sync(self) -> None:
        gates = dict(self._gates)
        reports = {name: (gate.terms, gate.report()) for name, gate in gates.items()}
        try:
            shares = await self._store.write(
                partial(change_book, lambda body, now: settle(body, self._owner, reports, now)), repeatable=True
            )
        except BaseException:
            for gate in gates.values():
                gate.unanswered()
            raise
        changed = False
        for name, share in shares.items():
            if share.owing and not reports[name][1].giving:
                self._look(True)
            changed |= share != gates[name].share
            gates[name].granted(share)
        self._gap_s = GATHER_S if changed else min(2 * self._gap_s, LONGEST_GAP_S)
        now = time.monotonic()
        remind = any(share.due for share in shares.values()) and now - self._reminded_at >= REMIND_S
        if remind or any(share.gave for share in shares.values()):
            self._reminded_at = now if remind else self._reminded_at
            self._store.signals.publish("limits", "")


async def _happens(event: asyncio.Event, within_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
