"""One attempt of a job: forks the agent, runs the task's turns, scores what came of it.

Invariant: every stage is noted in the database before the next begins, by who holds the job, and asking again is harmless (runs
are asked for under the attempt's own otids), so an attempt that was cut off anywhere goes on where it stopped, on any server.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from perdure.core.errors import AgentError, LeaseLost, StoreError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.rollouts import Attempt, AttemptStatus, Job, RewardGiven
from perdure.core.runs import Run, RunConfig
from perdure.rollouts.fork import fork_agent
from perdure.rollouts.rewards import Scoring, shown_to_rewards
from perdure.runs.runner import Runner
from perdure.runs.shielding import shielded
from perdure.store import message_reads
from perdure.store import rollouts as rollout_store
from perdure.store.base import Store, Tx

log = logging.getLogger(__name__)

PAUSES_S = (0.2, 1.0, 5.0)
"""Before going on after the database failed. When it fails even to note the attempt's end, the job's next holder goes on."""

_Made = TypeVar("_Made")


class Attempts:
    """`holder`: who holds the jobs, this process or the one that asked it to make their attempts."""

    def __init__(self, store: Store, runner: Runner, scoring: Scoring, *, holder: str) -> None:
        self._holder = holder
        self._store = store
        self._runner = runner
        self._scoring = scoring

    async def make(self, job: Job, attempt: Attempt) -> None:
        """See the attempt to its end. What goes wrong in it is its own failure; StoreError: that could not be noted either."""
        for pause_s in (*PAUSES_S, None):
            try:
                await self._go_on(job, attempt)
                return
            except LeaseLost:
                raise
            except StoreError as error:
                if pause_s is None:
                    await self._fail(job, attempt, error.message)
                    return
                log.warning("rollout %s goes on in %g s: %s", attempt.id, pause_s, error.message)
                await asyncio.sleep(pause_s)
            attempt = await self._store.read(partial(rollout_store.attempt_by_id, attempt.id))

    async def close(self) -> None:
        """Nothing of it goes on by itself."""

    async def _go_on(self, job: Job, attempt: Attempt) -> None:
        try:
            if attempt.agent_id is None:
                attempt = await self._kept(job, lambda: fork_agent(job, attempt))
            attempt, runs = await self._run_turns(job, attempt)
            rewards = await self._rewards(job, attempt, runs)
            await self._finish(job, attempt, runs, rewards)
        except StoreError:
            raise
        except AgentError as error:
            await self._fail(job, attempt, error.message)
        except (
            Exception
        ) as error:  # a defect of ours, or of what the attempt met: on record, and in the log with its traceback
            log.exception("rollout %s failed", attempt.id)
            await self._fail(job, attempt, f"Internal error: {type(error).__name__}: {error}")

    async def _run_turns(self, job: Job, attempt: Attempt) -> tuple[Attempt, list[Run]]:
        runs: list[Run] = []
        for at, said in enumerate(job.spec.tasks[attempt.task_index].turns):
            run_id = await self._submit(job, attempt, at, said)
            if run_id not in attempt.run_ids:
                attempt = msgspec.structs.replace(attempt, run_ids=(*attempt.run_ids, run_id))
                await self._kept(job, lambda held=attempt: rollout_store.change_attempt(held, now_us()))
            await self._runner.outcome(run_id)
            run = await self._runner.run(run_id)
            if run.status in ("created", "running"):
                raise StoreError(f"Run {run_id} was left by its worker before it ended.")
            runs.append(run)
            if run.status != "completed" or run.stop_reason == "requires_approval":
                break
        return attempt, runs

    async def _submit(self, job: Job, attempt: Attempt, at: int, said: str) -> str:
        """The attempt's run of this turn, asked for once. The first message bears the job's time: a prompt may show it."""
        assert attempt.agent_id is not None
        spec, now = job.spec, now_us()
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
            metadata={"run_type": "rollout", "rollout_id": attempt.id, "group_id": attempt.group_id},
        )
        message = Message(
            id=new_id("message"),
            role="user",
            created_us=job.created_us if at == 0 else now,
            content=(TextPart(said),),
            otid=otid,
            agent_id=attempt.agent_id,
            conversation_id=attempt.agent_id,
            run_id=run.id,
        )
        asked = asyncio.ensure_future(self._ask(job, run, message, otid))
        await shielded(asked)
        return asked.result()

    async def _ask(self, job: Job, run: Run, message: Message, otid: str) -> str:
        """Not to be cut off: a run is on record, where it can be cancelled, or was never asked for."""
        await self._store.read(lambda: rollout_store.check_kept(job.id, self._holder))
        submitted = await self._runner.submit(run, (message,), (otid,), wait=True)
        await submitted.durable
        return submitted.run_id

    async def _rewards(self, job: Job, attempt: Attempt, runs: list[Run]) -> list[RewardGiven]:
        if not job.spec.rewards:
            return []
        conversation_id = attempt.agent_id
        said = await self._store.scan(lambda: message_reads.list_messages(conversation_id=conversation_id, limit=None))
        shown = shown_to_rewards(attempt, job.spec.tasks[attempt.task_index], said, runs)
        return [given for reward in job.spec.rewards for given in await self._scoring.score(reward, shown, attempt)]

    async def _finish(self, job: Job, attempt: Attempt, runs: list[Run], rewards: list[RewardGiven]) -> None:
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

        await self._kept(job, tx)

    async def _fail(self, job: Job, attempt: Attempt, error: str) -> None:
        """`attempt` may be older than what is on record: only its end is noted."""

        def tx() -> Tx[None]:
            there = yield from rollout_store.attempt_by_id(attempt.id)
            failed = msgspec.structs.replace(there, status="failed", error=error)
            yield from rollout_store.change_attempt(failed, now_us())

        await self._kept(job, tx)

    async def _kept(self, job: Job, change: Callable[[], Tx[_Made]]) -> _Made:
        """Write as the holder of the job, all of it even if we are cancelled meanwhile. LeaseLost if we hold it no more."""

        def tx() -> Tx[_Made]:
            yield from rollout_store.check_kept(job.id, self._holder)
            return (yield from change())

        writing: asyncio.Future[Any] = asyncio.ensure_future(self._store.write(tx))
        await shielded(writing)
        return writing.result()
