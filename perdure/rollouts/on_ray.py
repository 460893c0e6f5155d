"""Makes the attempts of rollout jobs in processes of a Ray cluster: all of a group in one, the groups spread over them.

Invariant: the job stays with the server that holds it; a host writes only while that server does. A host that dies takes
nothing with it: its attempts go on where they stopped, on another. Ray must have been initialised.
"""

import asyncio
import importlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from perdure.core.errors import LeaseLost, StoreError
from perdure.core.rollouts import ENDED, Attempt, Job
from perdure.rollouts.attempt import Attempts
from perdure.rollouts.rewards import Scoring
from perdure.runs.runner import Runner
from perdure.store.base import Store
from perdure.store.rollouts import attempt_by_id

log = logging.getLogger(__name__)

MAX_TRIES = 6
PAUSE_S = 2.0  # while Ray starts the process again
_encode = msgspec.json.Encoder().encode
_job = msgspec.json.Decoder(Job).decode
_attempt = msgspec.json.Decoder(Attempt).decode


class Parts(NamedTuple):
    """What attempts are made with."""

    store: Store
    runner: Runner
    scoring: Scoring


Open = Callable[[], AbstractAsyncContextManager[Parts]]


class AttemptHost:
    """What runs in a process of the cluster: `open_parts` gives it a database, models and tools of its own."""

    def __init__(self, open_parts: Open) -> None:
        self._open_parts = open_parts
        self._opening = asyncio.Lock()
        self._parts: Parts | None = None
        self._open = AsyncExitStack()

    async def make(self, job: bytes, attempt: bytes, holder: str) -> str | None:
        """None: it came to its end. "lost": `holder` does not hold the job any more. Else what the database failed of."""
        async with self._opening:
            if self._parts is None:
                self._parts = await self._open.enter_async_context(self._open_parts())
        store, runner, scoring = self._parts
        attempt_id = _attempt(attempt).id
        try:
            there = await store.read(lambda: attempt_by_id(attempt_id))  # it may have come further since
            if there.status not in ENDED:
                await Attempts(store, runner, scoring, holder=holder).make(_job(job), there)
        except LeaseLost:
            return "lost"
        except StoreError as error:
            return error.message
        return None

    async def close(self) -> None:
        await self._open.aclose()
        self._parts = None


class RayAttempts:
    """`hosts`: how many processes of the cluster make attempts. They are started with the first one. `holder`: who holds the
    jobs; `open_parts`: called in each process, so it must be importable there."""

    def __init__(self, open_parts: Open, *, hosts: int, holder: str) -> None:
        self._open_parts = open_parts
        self._holder = holder
        self._number = hosts
        self._hosts: list[Any] = []

    async def make(self, job: Job, attempt: Attempt) -> None:
        """As Attempts.make."""
        ray: Any = importlib.import_module("ray")
        host = self._host_of(ray, attempt.group_id)
        for tried in range(1, MAX_TRIES + 1):
            answer = host.make.remote(_encode(job), _encode(attempt), self._holder)
            try:
                failed = await answer
            except asyncio.CancelledError:
                ray.cancel(answer)
                raise
            except ray.exceptions.RayError as error:
                log.warning("rollout %s goes on: its Ray process is gone (%s)", attempt.id, type(error).__name__)
                if tried == MAX_TRIES:
                    raise StoreError(f"Its Ray process went away {tried} times: {error}") from error
                await asyncio.sleep(PAUSE_S * tried)
                continue
            if failed == "lost":
                raise LeaseLost(f"Rollout job {job.id} is held by another server now.")
            if failed is not None:
                raise StoreError(failed)
            return

    def _host_of(self, ray: Any, group_id: str) -> Any:
        if not self._hosts:
            host = ray.remote(AttemptHost).options(
                num_cpus=1, max_concurrency=1000, max_restarts=-1, scheduling_strategy="SPREAD"
            )
            self._hosts = [host.remote(self._open_parts) for _ in range(self._number)]
        return self._hosts[crc32(group_id.encode()) % len(self._hosts)]

    async def close(self) -> None:
        """Let the hosts hand over what they hold, and end them."""
        ray: Any = importlib.import_module("ray")
        hosts, self._hosts = self._hosts, []
        if hosts:
            await asyncio.wait([asyncio.ensure_future(_ended(host.close.remote())) for host in hosts], timeout=10)
        for host in hosts:
            ray.kill(host)


async def _ended(answer: Any) -> None:
    try:
        await answer
    except Exception as error:
        log.warning("a Ray process of rollouts did not close: %s", error)
