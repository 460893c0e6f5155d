"""Works off rollout jobs: forks the agent for each attempt, runs the task's turns, scores what came of it.

Invariant: every stage of an attempt is noted in the database before the next begins, and asking again is harmless (runs are
asked for under the attempt's own otids), so a job that was cut off anywhere goes on where it stopped, on any server.
"""

import asyncio
import logging
from typing import Any

import msgspec

from perdure.core.errors import AgentError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.rollouts import ENDED, Attempt, AttemptStatus, Job, JobSpec, RewardGiven, Task
from perdure.core.runs import Run, RunConfig
from perdure.rollouts.fork import fork_agent
from perdure.rollouts.rewards import Scoring, shown_to_rewards
from perdure.runs.runner import Runner
from perdure.store import message_reads
from perdure.store import rollouts as rollout_store
from perdure.store.base import Store, Tx

log = logging.getLogger(__name__)

LEASE_US = 15_000_000
BEAT_S = 4.0
SWEEP_S = 2.0


class Rollouts:
    """The jobs this process works on. Others' are taken over when their lease runs out."""

    def __init__(self, store: Store, runner: Runner, scoring: Scoring) -> None:
        self._store = store
        self._runner = runner
        self._scoring = scoring
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Leave the jobs to whoever starts next."""
        tasks = [*self._jobs.values(), *((self._sweeping,) if self._sweeping is not None else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, spec: JobSpec) -> Job:
        """Accept a job; its attempts are on record when this returns, and begin at once."""
        now = now_us()
        job = Job(id=new_id("job"), spec=spec, status="running", created_us=now)
        attempts: list[Attempt] = []
        for task_index in range(len(spec.tasks)):
            group_id = new_id("group")
            attempts += [
                Attempt(
                    id=new_id("rollout"),
                    job_id=job.id,
                    group_id=group_id,
                    group_index=group_index,
                    task_index=task_index,
                )
                for group_index in range(spec.group_size)
            ]
        await self._store.write(lambda: rollout_store.create_job(job, attempts))
        await self._take(job.id)
        return job

    async def cancel(self, job_id: str) -> Job:
        """End a job: what has not begun never will, what goes on is cancelled. NotFound."""
        job = await self._store.read(lambda: rollout_store.job_by_id(job_id))
        if job.status != "running":
            return job
        await self._store.write(lambda: rollout_store.end_job(job_id, "cancelled", now_us()))
        if (task := self._jobs.get(job_id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for attempt in await self._store.read(lambda: rollout_store.attempts_of(job_id)):
            if attempt.status in ENDED:
                continue
            for run_id in attempt.run_ids:
                await self._runner.cancel(run_id)
            await self._note(attempt, status="cancelled")
        return await self._store.read(lambda: rollout_store.job_by_id(job_id))

    async def news(self, job_id: str, within_s: float) -> None:
        """Until something happens to a job that is worked on here, or the time is over."""
        event = self._news.setdefault(job_id, asyncio.Event())
        try:
            async with asyncio.timeout(within_s):
                await event.wait()
        except TimeoutError:
            pass
        event.clear()

    # -- jobs

    async def _sweep(self) -> None:
        while True:
            try:
                for job_id in await self._store.read(lambda: rollout_store.free_jobs(now_us())):
                    if job_id not in self._jobs:
                        await self._take(job_id)
            except AgentError:
                log.exception("looking for rollout jobs failed; trying again")
            await asyncio.sleep(SWEEP_S)

    async def _take(self, job_id: str) -> None:
        if not await self._hold(job_id):
            return
        task = self._jobs[job_id] = asyncio.create_task(self._work(job_id))
        task.add_done_callback(lambda _: self._jobs.pop(job_id, None))

    async def _hold(self, job_id: str) -> bool:
        now = now_us()
        return await self._store.write(lambda: rollout_store.take_job(job_id, self._runner.owner, now + LEASE_US, now))

    async def _work(self, job_id: str) -> None:
        beat = asyncio.create_task(self._beat(job_id, asyncio.current_task()))
        try:
            job = await self._store.read(lambda: rollout_store.job_by_id(job_id))
            attempts = await self._store.read(lambda: rollout_store.attempts_of(job_id))
            room = asyncio.Semaphore(job.spec.max_concurrency)
            async with asyncio.TaskGroup() as group:
                for attempt in attempts:
                    if attempt.status not in ENDED:
                        await room.acquire()
                        group.create_task(self._attempt(job.spec, attempt, room))
            await self._store.write(lambda: rollout_store.end_job(job_id, "completed", now_us()))
            self._tell(job_id)
        except Exception:
            log.exception("rollout job %s stopped; it is taken up again when its lease runs out", job_id)
        finally:
            beat.cancel()

    async def _beat(self, job_id: str, work: "asyncio.Task[Any] | None") -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                if not await self._hold(job_id) and work is not None:
                    work.cancel()  # it has ended, or another process has it
                    return
            except AgentError:
                log.exception("renewing the lease of rollout job %s failed; trying again", job_id)

    # -- one attempt

    async def _attempt(self, spec: JobSpec, attempt: Attempt, room: asyncio.Semaphore) -> None:
        task = spec.tasks[attempt.task_index]
        try:
            if attempt.agent_id is None:
                attempt = await self._store.write(lambda: fork_agent(spec, attempt))
            attempt, runs = await self._run_turns(spec, attempt, task)
            rewards = await self._rewards(spec, attempt, task, runs)
            await self._finish(attempt, runs, rewards)
        except AgentError as error:
            await self._note(attempt, status="failed", error=error.message)
        finally:
            room.release()
            self._tell(attempt.job_id)

    async def _run_turns(self, spec: JobSpec, attempt: Attempt, task: Task) -> tuple[Attempt, list[Run]]:
        runs: list[Run] = []
        for at, said in enumerate(task.turns):
            run_id = await self._submit(spec, attempt, at, said)
            if run_id not in attempt.run_ids:
                attempt = msgspec.structs.replace(attempt, run_ids=(*attempt.run_ids, run_id))
                await self._store.write(lambda held=attempt: rollout_store.change_attempt(held, now_us()))
            await self._runner.outcome(run_id)
            runs.append(await self._runner.run(run_id))
            if runs[-1].status != "completed" or runs[-1].stop_reason == "requires_approval":
                break
        return attempt, runs

    async def _submit(self, spec: JobSpec, attempt: Attempt, at: int, said: str) -> str:
        assert attempt.agent_id is not None
        now = now_us()
        otid = f"{attempt.id}:{at}"
        run = Run(
            id=new_id("run"),
            agent_id=attempt.agent_id,
            conversation_id=attempt.agent_id,
            status="created",
            created_us=now,
            config=RunConfig(
                max_steps=spec.max_steps,
                include_pings=False,
                override_model=spec.model,
                override_settings=spec.settings or None,
            ),
            metadata={"run_type": "rollout", "rollout_id": attempt.id},
        )
        message = Message(
            id=new_id("message"),
            role="user",
            created_us=now,
            content=(TextPart(said),),
            otid=otid,
            agent_id=attempt.agent_id,
            conversation_id=attempt.agent_id,
            run_id=run.id,
        )
        submitted = await self._runner.submit(run, (message,), (otid,), wait=True)
        await submitted.durable
        return submitted.run_id

    async def _rewards(self, spec: JobSpec, attempt: Attempt, task: Task, runs: list[Run]) -> list[RewardGiven]:
        if not spec.rewards:
            return []
        conversation_id = attempt.agent_id
        said = await self._store.scan(lambda: message_reads.list_messages(conversation_id=conversation_id, limit=None))
        shown = shown_to_rewards(attempt, task, said, runs)
        return [given for reward in spec.rewards for given in await self._scoring.score(reward, shown, attempt)]

    async def _finish(self, attempt: Attempt, runs: list[Run], rewards: list[RewardGiven]) -> None:
        last = runs[-1]
        status: AttemptStatus = "completed"
        if last.stop_reason in ("max_steps", "max_tokens_exceeded"):
            status = "truncated"
        elif last.status != "completed":
            status = "cancelled" if last.status == "cancelled" else "failed"
        ended = msgspec.structs.replace(
            attempt,
            status=status,
            reward=sum(given.value * given.weight for given in rewards) if rewards else None,
            error=(last.error or {}).get("message") if status == "failed" else None,
        )

        def tx() -> Tx[None]:
            for given in rewards:
                yield from rollout_store.add_reward(given)
            yield from rollout_store.change_attempt(ended, now_us())

        await self._store.write(tx)

    async def _note(self, attempt: Attempt, *, status: AttemptStatus, error: str | None = None) -> None:
        changed = msgspec.structs.replace(attempt, status=status, error=error)
        await self._store.write(lambda: rollout_store.change_attempt(changed, now_us()))

    def _tell(self, job_id: str) -> None:
        if (event := self._news.get(job_id)) is not None:
            event.set()
