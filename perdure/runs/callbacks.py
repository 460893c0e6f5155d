"""Tells those who asked for it that a run has ended: at least once, signed, again after a pause where nobody answered.

Invariant: at any moment one process at most makes an attempt for a run, and an attempt that was cut off is made again.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from perdure.core.errors import AgentError, Invalid
from perdure.core.ids import now_us
from perdure.core.runs import Run
from perdure.providers.web import Web
from perdure.store import callbacks as callback_store
from perdure.store import runs as run_store
from perdure.store.base import Store
from perdure.store.callbacks import Callback, Outcome

log = logging.getLogger(__name__)

# seconds until the next attempt, after the first, second ...; then it is given up
PAUSES_S = (2, 10, 60, 300, 1800, 7200, 21600)
ATTEMPT_S = 30.0
LOOK_S = 5.0


class Callbacks:
    """`secret`: signs each callback, so that its receiver knows who sent it. None: they are not signed."""

    def __init__(self, store: Store, web: Web, *, secret: str | None = None) -> None:
        self._store = store
        self._web = web
        self._secret = secret.encode() if secret else None
        self._wake = asyncio.Event()

    def run_ended(self, run: Run) -> None:
        if run.config.callback_url is not None:
            self._wake.set()

    async def deliver(self) -> None:
        """For ever: whatever is due."""
        while True:
            self._wake.clear()
            try:
                for callback in await self._store.read(lambda: callback_store.due_callbacks(now_us())):
                    await self._attempt(callback)
            except AgentError:
                log.exception("delivering callbacks failed; trying again")
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _attempt(self, callback: Callback) -> None:
        until = now_us() + int(ATTEMPT_S * 2e6)
        if not await self._store.write(lambda: callback_store.take_callback(callback, until)):
            return
        run = await self._store.read(lambda: run_store.run_by_id(callback.run_id))
        outcome = await self._post(callback, run)
        await self._store.write(lambda: callback_store.callback_tried(callback.run_id, outcome))

    async def _post(self, callback: Callback, run: Run) -> Outcome:
        body = msgspec.json.encode(payload(run))
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
    completed = None if run.completed_us is None else datetime.fromtimestamp(run.completed_us / 1e6, UTC).isoformat()
    return {
        "run_id": run.id,
        "status": run.status,
        "stop_reason": run.stop_reason,
        "completed_at": completed,
        "metadata": run.metadata or {},
    }


def signature(secret: bytes, at: int, body: bytes) -> str:
    """`t=<unix seconds>,v1=<hex>`: HMAC-SHA256 of `<t>.<body>`. The time keeps an old callback from being played again."""
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
