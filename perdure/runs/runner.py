"""Accepts runs, drives the ones this process holds, finds the ones nobody holds any more, and lets anyone follow.

Every way of sending a message goes through `submit` and reads the run's event log. At most one run of a conversation is driven
at a time, anywhere: the lease in the database says whose.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from msgspec import Struct

from perdure.core.errors import AgentError, LeaseLost, ProviderError, Stopping, StoreError
from perdure.core.events import Event
from perdure.core.ids import now_us
from perdure.core.messages import Message
from perdure.core.runs import Run, StopReason
from perdure.core.weighed import weight_of
from perdure.providers.batched import CallParked
from perdure.providers.registry import Registry
from perdure.providers.web import Web
from perdure.runs.assembly import Turns
from perdure.runs.callbacks import Callbacks
from perdure.runs.cancelling import Cancelling
from perdure.runs.capacity import Capacity
from perdure.runs.claiming import Claiming
from perdure.runs.compact import Compactor
from perdure.runs.context import CACHE_BYTES, Contexts
from perdure.runs.driving import Driving
from perdure.runs.following import Following
from perdure.runs.jobs import Job, Jobs
from perdure.runs.log import Logs, RunLog
from perdure.runs.mirror import Mirrors
from perdure.runs.owners import Owners
from perdure.runs.parked import park
from perdure.runs.peers import RunPeers, StandIn
from perdure.runs.remote import Remote
from perdure.runs.search import Searcher
from perdure.runs.shielding import shielded
from perdure.runs.taking_up import take_up
from perdure.runs.watch import LEASE_US, SWEEP_S, Watch
from perdure.runs.worker import Observer, Worker
from perdure.store import events as event_store
from perdure.store import runs as run_store
from perdure.store import submissions
from perdure.store.base import LARGE, Store
from perdure.store.submissions import Accepted, RequestKey
from perdure.tools.executor import OpenSecrets
from perdure.tools.sandbox import Sandbox

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
GRACE_S = 5.0
HAND_OVER_S = 5.0


class Submitted(Struct, frozen=True):
    """`attached`: the run had been accepted before. `durable` completes once the acceptance is on disk."""

    run_id: str
    attached: bool
    durable: Any


class Runner:
    def __init__(
        self,
        store: Store,
        registry: Registry,
        sandbox: Sandbox,
        *,
        web: Web | None = None,
        searcher: Searcher | None = None,
        max_queued: int = 100,
        trace_limit: int = 16_384,
        callback_secret: str | None = None,
        approval_expiry_s: float | None = None,
        max_agent_depth: int = 5,
        stand_in: StandIn | None = None,
        open_secrets: OpenSecrets = dict,
        max_runs: int | None = None,
        max_backlog: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._store = store
        web = web or Web()
        self.contexts = Contexts(store, cache_bytes=cache_bytes)
        turns = Turns(
            registry,
            sandbox,
            web,
            searcher or Searcher(store),
            peers=lambda run, bundle: RunPeers(
                self, store, self.contexts, run, bundle, max_depth=max_agent_depth, stand_in=stand_in
            ),
            open_secrets=open_secrets,
        )
        self._driving = Driving(store, self.contexts, turns, Compactor(registry, self.contexts))
        self._owners = Owners(store)
        self.owner = self._owners.me
        self._max_queued = max_queued
        self._trace_limit = trace_limit
        self.callbacks = Callbacks(store, web, secret=callback_secret)
        self._approval_expiry_us = None if approval_expiry_s is None else round(approval_expiry_s * 1e6)
        self._logs = Logs()
        self._jobs = Jobs()
        self.capacity = Capacity(self._jobs, most=max_runs, max_backlog=max_backlog)
        self._background: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self.observers: list[Observer] = [self.contexts.learn]
        self.parked: Callable[[], None] = lambda: None
        self._mirrors = Mirrors(store, driven=self._jobs.__contains__)
        self._remote = Remote(
            store.signals,
            logs=self._logs,
            driven=self._jobs.__contains__,
            cancel=self._jobs.stop,
            mirrors=self._mirrors,
        )
        self._claiming = Claiming(
            store,
            self._owners,
            self.capacity,
            drives=self._jobs.newest.__contains__,
            take=self._take,
            tell=self._remote.queued,
            spawn=self._spawn,
            stopping=lambda: self._stopping,
        )
        self._following = Following(store, self._remote, self._mirrors, self._logs, stopping=lambda: self._stopping)
        self._cancelling = Cancelling(
            store, self._remote, self._following, self._jobs, self._logs, self.contexts, freed=self.queued
        )
        self._watch = Watch(
            store,
            self._remote,
            self.owner,
            jobs=self._jobs,
            logs=self._logs,
            cancel=self._jobs.stop,
        )

    async def start(self) -> None:
        await self._remote.start(self._claiming)
        self._spawn(self._watch.beat())
        self._spawn(self._watch.let_go())
        self._spawn(self._claiming.look(SWEEP_S))
        self._spawn(self.callbacks.deliver())

    def refuse(self) -> None:
        """Accept and take up nothing more."""
        self._stopping = True

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Let running runs end for a while, then leave the rest to whoever starts next: their steps are committed.

        Whoever follows a run is let go once it is not driven here (any more).
        """
        self.refuse()
        self._mirrors.close()
        self._let_followers_go()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=grace_s)
            for task in pending:
                task.cancel()
            if pending:  # a database that is away is not waited for: the leases expire
                await asyncio.wait(pending, timeout=HAND_OVER_S)
        self._let_followers_go()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _let_followers_go(self) -> None:
        for run_id, runlog in list(self._logs.items()):
            if run_id not in self._jobs and not runlog.ended:
                runlog.abandon()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- accepting

    async def submit(
        self,
        run: Run,
        inputs: tuple[Message, ...],
        otids: tuple[str, ...],
        *,
        wait: bool,
        lazy: bool = False,
        key: RequestKey | None = None,
    ) -> Submitted:
        """Accept a request (D4: once per otid, once per key) and start it as soon as its conversation is free.

        Raises NotFound, Conflict (busy and not `wait`), Unavailable. Do not tell the caller before `durable`. `lazy`: nobody
        is told before the run ends, so its acceptance may share a commit with its first step.
        """
        if self._stopping:
            raise Stopping("The server is shutting down. Send again, to another server or in a moment.")
        self.capacity.check()
        start = not self.capacity.full
        write = self._store.begin_write(
            lambda: submissions.submit_run(
                run,
                inputs,
                otids=otids,
                owner=self.owner,
                until=now_us() + LEASE_US,
                wait=wait,
                max_queued=self._max_queued,
                key=key,
                start=start,
            ),
            lazy=lazy,
            quick=weight_of(inputs) < LARGE,
        )
        accepted: Accepted = await write.executed
        if accepted.attached:
            return Submitted(accepted.run_id, True, write.committed)
        self._logs.keep(RunLog(run.id))
        if accepted.lease is not None:
            self._start(run, accepted, accepted.admitted.inputs if accepted.fresh else None, write.committed)
        else:
            self.queued(run.conversation_id)
        return Submitted(run.id, False, write.committed)

    def queued(self, conversation_id: str) -> None:
        """A run waits for this conversation, which may be free."""
        self._claiming.queued(conversation_id)

    def _start(
        self,
        run: Run,
        accepted: Accepted,
        inputs: tuple[Message, ...] | None,
        durable: "Awaitable[Any] | None" = None,
    ) -> None:
        """`durable`: completes once the acceptance, and whatever was written before it, can be read."""
        job = self._jobs.begin(run)
        job.task = asyncio.create_task(self._work(run, accepted, inputs, job, durable))

    # -- driving

    async def _work(
        self,
        run: Run,
        accepted: Accepted,
        inputs: tuple[Message, ...] | None,
        job: Job,
        durable: "Awaitable[Any] | None",
    ) -> None:
        runlog = self._logs.get(run.id) or self._logs.keep(RunLog(run.id))
        worker = self._worker(run, accepted, runlog)
        worker.begin()
        try:
            if accepted.admitted.refused is not None:
                await shielded(worker.finish_early("error", accepted.admitted.refused, refused=True))
            else:
                await job.until_first()
                await self._driving.drive(worker, accepted, inputs, durable)
        except CallParked as parked:
            self.contexts.forget(run.conversation_id)
            await park(self._store, worker, parked.call)
            self.parked()
        except LeaseLost:
            log.warning("run %s was taken over by another worker", run.id)
            self.contexts.forget(run.conversation_id)
        except asyncio.CancelledError:
            self.contexts.forget(run.conversation_id)
            if job.cancelled:
                await self._end(worker, "cancelled", None)
            else:
                await self._hand_over(accepted)
        except AgentError as error:
            self.contexts.forget(run.conversation_id)
            await self._end(worker, "llm_api_error" if isinstance(error, ProviderError) else "error", error)
        except Exception as error:  # a defect of ours: on record as the run's end, and in the log with its traceback
            log.exception("run %s failed", run.id)
            self.contexts.forget(run.conversation_id)
            await self._end(worker, "error", AgentError(f"Internal error: {type(error).__name__}: {error}"))
        finally:
            self._jobs.end(run, job)
            self.contexts.rest(run.conversation_id)
            if not runlog.ended:
                runlog.abandon()
            self._logs.over(runlog)
            self._remote.freed(run.conversation_id)
            self.callbacks.run_ended(run)
        await self._claiming.after(run.conversation_id)

    def _worker(self, run: Run, accepted: Accepted, runlog: RunLog) -> Worker:
        assert accepted.lease is not None
        return Worker(
            self._store,
            run,
            accepted.lease,
            runlog,
            trace_limit=self._trace_limit,
            on_commit=self._remote.committed,
            on_queued=self.queued,
            observers=self.observers,
            admitted=accepted.admitted,
            approval_expiry_us=self._approval_expiry_us,
        )

    async def _hand_over(self, accepted: Accepted) -> None:
        """Leave a run to whoever looks next, from its last committed step."""
        lease = accepted.lease
        assert lease is not None
        try:
            await shielded(self._store.write(lambda: run_store.hand_over(lease), quick=True))
        except StoreError:
            log.warning("run %s could not be handed over; its lease will expire", lease.run_id)
        else:
            self._remote.queued(lease.conversation_id)

    async def _end(self, worker: Worker, stop: StopReason, error: AgentError | None) -> None:
        try:
            await shielded(worker.finish_early(stop, error))
        except LeaseLost:
            log.warning("run %s was taken over before it could be ended", worker.run.id)
        except StoreError:
            log.exception(
                "run %s could not be ended; its lease will expire and it will be taken up again", worker.run.id
            )

    async def _take(self, accepted: Accepted) -> None:
        """Begin, or go on with, a run that was claimed."""
        run = await self._store.read(lambda: run_store.run_by_id(accepted.run_id))
        runlog = self._logs.get(run.id)
        if runlog is None or runlog.ended or run.attempts > 1:
            if runlog is not None:
                runlog.abandon()  # other workers may have written more than was heard of here
            seq = await self._store.read(lambda: event_store.last_seq(run.id))
            self._logs.keep(RunLog(run.id, base=seq))
        if run.attempts > MAX_ATTEMPTS:
            error = AgentError(f"This run ended its worker {run.attempts - 1} times and is not tried again.")
            await self._end_claimed(run, accepted, "error", error)
        elif run.attempts > 1 and run.id in await self._store.read(run_store.cancel_requests):
            await self._end_claimed(run, accepted, "cancelled", None)
        else:
            self._start(run, accepted, None)

    async def _end_claimed(self, run: Run, accepted: Accepted, stop: StopReason, error: AgentError | None) -> None:
        worker = self._worker(run, accepted, self._logs[run.id])
        worker.begin()
        await take_up(self._store, worker, again=False)
        await self._end(worker, stop, error)
        self.callbacks.run_ended(run)

    # -- following and ending

    def follow(
        self, run_id: str, after: int = 0, *, idle_s: float | None = None
    ) -> AsyncIterator[tuple[int, list[Event]]]:
        """(seq of the first, events) with seq > `after`: what is stored, then live until the run ends. NotFound.

        With `idle_s`, an empty batch comes after that long without events.
        """
        return self._following.follow(run_id, after, idle_s=idle_s)

    async def outcome(self, run_id: str) -> list[Event]:
        """All events of a run, once it has ended."""
        return await self._following.outcome(run_id)

    @property
    def active(self) -> int:
        """Runs this process drives now."""
        return len(self._jobs)

    @property
    def waiting(self) -> int:
        """Runs accepted here that wait for their conversation."""
        return self._claiming.waiting

    def aside(self, run_id: str) -> AbstractContextManager[None]:
        """While a run driven here waits for another one."""
        return self.capacity.aside(run_id)

    async def run(self, run_id: str) -> Run:
        """The run as stored. NotFound."""
        return await self._store.read(lambda: run_store.run_by_id(run_id))

    async def cancel(self, run_id: str) -> str:
        """End a run as soon as possible: "cancelled" or "ended" (it had ended before). NotFound."""
        return await self._cancelling.cancel(run_id)
