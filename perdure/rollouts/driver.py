"""Works off rollout jobs: holds their leases, keeps as many attempts going as a job allows, and ends what is cancelled.

Invariant: a job is worked on by the one process that holds its lease, goes on elsewhere when that is gone, and is failed, with
the reason, when it was taken up again and again without coming any further.
"""

import asyncio
import logging
from functools import partial
from typing import Any, Literal, Protocol

import msgspec

from perdure.core.errors import LeaseLost
from perdure.core.ids import new_id, now_us
from perdure.core.rollouts import ENDED, Attempt, Job, JobSpec
from perdure.rollouts.fork import base_of
from perdure.runs.runner import Runner
from perdure.store import rollouts as rollout_store
from perdure.store.base import Store, Tx
from perdure.store.runs import active_runs

log = logging.getLogger(__name__)

LEASE_US = 15_000_000
BEAT_S = 4.0
SWEEP_S = 2.0
MAX_TAKES = 5


class MakesAttempts(Protocol):
    """Sees attempts to their end: here (`attempt.py`), or in processes of a Ray cluster (`on_ray.py`)."""

    async def make(self, job: Job, attempt: Attempt) -> None:
        """LeaseLost if this process holds the job no more; StoreError if the attempt's end could not be noted."""
        ...

    async def close(self) -> None: ...


class Rollouts:
    """The jobs this process works on. Others' are taken over when their lease runs out. `attempts`: who sees to theirs."""

    def __init__(self, store: Store, runner: Runner, attempts: "MakesAttempts") -> None:
        self._store = store
        self._runner = runner
        self._attempts = attempts
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, set[asyncio.Future[None]]] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Leave the jobs to whoever starts next."""
        held = dict(self._jobs)
        tasks = [*held.values(), *((self._sweeping,) if self._sweeping is not None else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for job_id in held:
            await self._store.write(lambda job_id=job_id: rollout_store.leave_job(job_id, self._runner.owner))
        await self._attempts.close()

    async def submit(self, spec: JobSpec) -> Job:
        """Accept a job; its attempts, and the state they begin with, are on record when this returns. NotFound."""
        now = now_us()
        job_id = new_id("job")
        attempts: list[Attempt] = []
        for task_index in range(len(spec.tasks)):
            group_id = new_id("group")
            attempts += [
                Attempt(
                    id=new_id("rollout"),
                    job_id=job_id,
                    group_id=group_id,
                    group_index=group_index,
                    task_index=task_index,
                )
                for group_index in range(spec.group_size)
            ]

        def tx() -> Tx[Job]:
            base_id = yield from base_of(spec, job_id, now)
            kept = msgspec.structs.replace(spec, base_id=base_id)
            job = Job(id=job_id, spec=kept, status="running", created_us=now)
            yield from rollout_store.create_job(job, attempts)
            return job

        job = await self._store.write(tx)
        await self._take(job.id)
        return job

    async def cancel(self, job_id: str) -> Job:
        """End a job: what has not begun never will, what goes on is cancelled. NotFound."""
        job = await self._store.read(lambda: rollout_store.job_by_id(job_id))
        if job.status != "running":
            return job
        await self._end(job_id, "cancelled")
        return await self._store.read(lambda: rollout_store.job_by_id(job_id))

    async def news(self, job_id: str, within_s: float) -> None:
        """Until something happens to a job that is worked on here, or the time is over."""
        told = asyncio.get_running_loop().create_future()
        waiting = self._news.setdefault(job_id, set())
        waiting.add(told)
        try:
            await asyncio.wait([told], timeout=within_s)
        finally:
            waiting.discard(told)
            if not waiting and self._news.get(job_id) is waiting:
                del self._news[job_id]

    def _tell(self, job_id: str) -> None:
        for told in self._news.pop(job_id, ()):
            if not told.done():
                told.set_result(None)

    # -- holding jobs

    async def _sweep(self) -> None:
        while True:
            try:
                for job_id in await self._store.read(lambda: rollout_store.free_jobs(now_us())):
                    if job_id not in self._jobs:
                        await self._take(job_id)
            except Exception:
                log.exception("looking for rollout jobs failed; trying again")
            await asyncio.sleep(SWEEP_S)

    async def _take(self, job_id: str) -> None:
        now = now_us()
        takes = await self._store.write(lambda: rollout_store.take_job(job_id, self._runner.owner, now + LEASE_US, now))
        if takes is None:
            return
        if takes > MAX_TAKES:
            error = f"This job was taken up {takes - 1} times without one more attempt coming to its end; it is not tried again."
            log.error("rollout job %s: %s", job_id, error)
            await self._end(job_id, "failed", error)
            return
        task = self._jobs[job_id] = asyncio.create_task(self._work(job_id))
        task.add_done_callback(lambda _: self._jobs.pop(job_id, None))

    async def _work(self, job_id: str) -> None:
        beat = asyncio.create_task(self._beat(job_id, asyncio.current_task()))
        try:
            job = await self._store.read(lambda: rollout_store.job_by_id(job_id))
            attempts = await self._store.scan(lambda: rollout_store.attempts_of(job_id))
            room = asyncio.Semaphore(job.spec.max_concurrency)
            async with asyncio.TaskGroup() as group:
                for attempt in attempts:
                    if attempt.status not in ENDED:
                        await room.acquire()
                        group.create_task(self._one(job, attempt, room))
            await self._store.write(lambda: rollout_store.end_job(job_id, "completed", now_us()))
            self._tell(job_id)
        except* LeaseLost:
            log.warning("rollout job %s has ended, or another server works on it", job_id)
        except* Exception:
            log.exception("rollout job %s stopped; it is taken up again when its lease runs out", job_id)
        finally:
            beat.cancel()

    async def _one(self, job: Job, attempt: Attempt, room: asyncio.Semaphore) -> None:
        try:
            await self._attempts.make(job, attempt)
        finally:
            room.release()
            self._tell(job.id)

    async def _beat(self, job_id: str, work: "asyncio.Task[Any] | None") -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                until = now_us() + LEASE_US
                if await self._store.write(
                    lambda until=until: rollout_store.keep_job(job_id, self._runner.owner, until)
                ):
                    continue
                for attempt in await self._store.scan(lambda: rollout_store.attempts_of(job_id)):
                    if attempt.status == "cancelled":  # by another process, which may have missed what just began here
                        await self._cancel_runs(attempt.id)
                if work is not None:
                    work.cancel()  # the job has ended, or another process has it
                return
            except Exception:
                log.exception("renewing the lease of rollout job %s failed; trying again", job_id)

    # -- ending jobs

    async def _end(self, job_id: str, status: Literal["cancelled", "failed"], error: str | None = None) -> None:
        """Nothing of the job goes on when this returns."""
        ended = await self._store.write(lambda: rollout_store.break_off(job_id, status, now_us(), error=error))
        if (task := self._jobs.get(job_id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for rollout_id in ended:
            await self._cancel_runs(rollout_id)
        self._tell(job_id)

    async def _cancel_runs(self, rollout_id: str) -> None:
        """All that the copies made for the attempt are doing, whoever asked them to."""
        for agent_id in await self._store.read(lambda: rollout_store.copies_in(rollout_id)):
            for run_id, _, _ in await self._store.read(partial(active_runs, agent_id=agent_id)):
                await self._runner.cancel(run_id)
