"""Tells those who asked for it that a run has ended: at least once, signed, again after a pause where nobody answered.

Invariant: at any moment one process at most makes an attempt for a run, and an attempt that was cut off is made again.
A receiver that is slow holds up only those of its own host.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec

from perdure.core.batches import Batch
from perdure.core.errors import AgentError, Invalid, NotFound
from perdure.core.ids import now_us
from perdure.core.runs import Run
from perdure.providers.web import Web
from perdure.store import callbacks as callback_store
from perdure.store import runs as run_store
from perdure.store.base import Store
from perdure.store.batches import batch_by_id
from perdure.store.callbacks import Callback, Outcome

log = logging.getLogger(__name__)

# seconds until the next attempt, after the first, second ...; then it is given up
PAUSES_S = (2, 10, 60, 300, 1800, 7200, 21600)
ATTEMPT_S = 30.0
LOOK_S = 5.0
AT_ONCE = 64
PER_HOST = 4


class Callbacks:
    """`secret`: signs each callback, so that its receiver knows who sent it. None: they are not signed."""

    def __init__(self, store: Store, web: Web, *, secret: str | None = None) -> None:
        self._store = store
        self._web = web
        self._secret = secret.encode() if secret else None
        self._wake = asyncio.Event()
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._of_host: Counter[str] = Counter()

    def run_ended(self, run: Run) -> None:
        if run.config.callback_url is not None:
            self._wake.set()

    def look(self) -> None:
        """Something else has ended whose end is to be told."""
        self._wake.set()

    async def deliver(self) -> None:
        """For ever: whatever is due."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._begin_due()
                except AgentError:
                    log.exception("looking for callbacks failed; trying again")
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for attempt in self._attempts.values():
                attempt.cancel()
            await asyncio.gather(*self._attempts.values(), return_exceptions=True)

    async def _begin_due(self) -> None:
        """An attempt for each callback that is due and whose host has room; the others wait for an attempt's end."""
        now = now_us()
        last: Callback | None = None
        while len(self._attempts) < AT_ONCE:
            found = await self._store.read(partial(callback_store.due_callbacks, now, last))
            if not found:
                return
            for callback in found:
                if len(self._attempts) < AT_ONCE:
                    self._begin(callback)
            last = found[-1]

    def _begin(self, callback: Callback) -> None:
        host = urlsplit(callback.url).netloc
        if callback.run_id in self._attempts or self._of_host[host] >= PER_HOST:
            return
        self._of_host[host] += 1
        attempt = asyncio.create_task(self._attempt(callback))
        self._attempts[callback.run_id] = attempt

        def ended(_: object) -> None:
            del self._attempts[callback.run_id]
            self._of_host[host] -= 1
            self._of_host += Counter()  # forgets the hosts that nothing is sent to
            self._wake.set()

        attempt.add_done_callback(ended)

    async def _attempt(self, callback: Callback) -> None:
        try:
            until = now_us() + int(ATTEMPT_S * 2e6)
            if not await self._store.write(lambda: callback_store.take_callback(callback, until), quick=True):
                return
            try:
                said = await self._payload(callback.run_id)
            except NotFound:  # it was deleted since
                await self._store.write(lambda: callback_store.forget_callback(callback.run_id), quick=True)
                return
            outcome = await self._post(callback, said)
            await self._store.write(lambda: callback_store.callback_tried(callback.run_id, outcome), quick=True)
        except AgentError:
            log.exception("delivering the callback of %s failed; trying again", callback.run_id)
            await asyncio.sleep(LOOK_S)  # in its place: a database that is away is not asked again at once

    async def _payload(self, run_id: str) -> dict[str, Any]:
        if run_id.startswith("job-"):
            return batch_payload(await self._store.read(lambda: batch_by_id(run_id)))
        return payload(await self._store.read(lambda: run_store.run_by_id(run_id)))

    async def _post(self, callback: Callback, said: dict[str, Any]) -> Outcome:
        body = msgspec.json.encode(said)
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers["X-Perdure-Signature"] = signature(self._secret, int(time.time()), body)
        status: int | None = None
        error: str | None = None
        try:
            status = await self._web.post(callback.url, body, headers)
        except Invalid as failure:
            error = failure.message
        again = status is None or status == 429 or status >= 500
        pause_s = PAUSES_S[callback.attempts] if again and callback.attempts < len(PAUSES_S) else None
        now = now_us()
        if status is not None and status >= 400:
            error = f"HTTP {status}"
        return Outcome(
            sent_us=now,
            status_code=status,
            error=error,
            due_us=None if pause_s is None else now + pause_s * 1_000_000,
        )


def payload(run: Run) -> dict[str, Any]:
    """What a callback says. `metadata` as on the run."""
    return {
        "run_id": run.id,
        "status": run.status,
        "stop_reason": run.stop_reason,
        "completed_at": _iso(run.completed_us),
        "metadata": run.metadata or {},
    }


def batch_payload(batch: Batch) -> dict[str, Any]:
    return {"job_id": batch.id, "status": batch.status, "completed_at": _iso(batch.completed_us)}


def _iso(at_us: int | None) -> str | None:
    return None if at_us is None else datetime.fromtimestamp(at_us / 1e6, UTC).isoformat()


def signature(secret: bytes, at: int, body: bytes) -> str:
    """`t=<unix seconds>,v1=<hex>`: HMAC-SHA256 of `<t>.<body>`. The time keeps an old callback from being played again."""
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
