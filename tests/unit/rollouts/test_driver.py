"""Rollout jobs on a real store with a played model: what fails an attempt, what fails a job, what ends with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.create import create_agent
from perdure.agents.spec import AgentSpec
from perdure.core.errors import NotFound, StoreError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.rollouts import Attempt, Job, JobSpec, Task
from perdure.core.runs import Run, RunConfig
from perdure.rollouts import attempt as attempt_module
from perdure.rollouts import driver
from perdure.rollouts.attempt import Attempts
from perdure.rollouts.driver import MAX_TAKES, Rollouts
from perdure.runs.runner import Runner
from perdure.store import rollouts as rollout_store
from perdure.store.runs import active_runs
from perdure.store.sqlite import SqliteStore
from tests.doubles.fixed_registry import FixedRegistry, info
from tests.doubles.models import OneModel, PlayedModel


class World:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.model = PlayedModel()
        self.runner = Runner(store, OneModel(self.model), None)  # type: ignore[arg-type]
        self.rollouts = self.driver()
        self.agent_id = ""

    def driver(self) -> Rollouts:
        return Rollouts(self.store, self.runner, Attempts(self.store, self.runner, None, holder=self.runner.owner))  # type: ignore[arg-type]

    async def start(self) -> None:
        await ensure_builtin_tools(self.store)
        spec = AgentSpec(name="Ann", model="test/m")
        self.agent_id = (await create_agent(self.store, FixedRegistry(info("test/m")), spec)).bundle.agent.id
        await self.runner.start()

    async def submit(self, attempts: int = 1, **fields: Any) -> Job:
        tasks = (Task(id="one", turns=("Hello",)),)
        return await self.rollouts.submit(JobSpec(agent_id=self.agent_id, tasks=tasks, group_size=attempts, **fields))

    async def job(self, job_id: str) -> Job:
        return await self.store.read(lambda: rollout_store.job_by_id(job_id))

    async def attempts(self, job_id: str) -> list[Attempt]:
        return await self.store.read(lambda: rollout_store.attempts_of(job_id))

    async def ended(self, job_id: str) -> Job:
        for _ in range(4000):
            if (job := await self.job(job_id)).status != "running":
                return job
            await asyncio.sleep(0.002)
        raise AssertionError(f"the job did not end: {await self.attempts(job_id)}")


@pytest.fixture
async def world(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(driver, "LEASE_US", 200_000)  # free again soon after its holder is gone
    monkeypatch.setattr(driver, "SWEEP_S", 0.001)
    monkeypatch.setattr(attempt_module, "PAUSES_S", (0.0, 0.0, 0.0))
    made = World(store)
    await made.start()
    yield made
    made.model.gate.set()
    await made.rollouts.stop()
    await made.runner.stop()


def failing(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> list[str]:
    """The next forks raise these errors, in order; the rest work. Answers whose forks were begun."""
    begun: list[str] = []
    left = list(errors)
    real: Callable[..., Any] = attempt_module.fork_agent

    def fork(job: Job, attempt: Attempt) -> Any:
        begun.append(attempt.id)
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return real(job, attempt)

    monkeypatch.setattr(attempt_module, "fork_agent", fork)
    return begun


def crashing(monkeypatch: pytest.MonkeyPatch, *crashes: bool) -> list[str]:
    """The next attempts take whoever works on the job with them where this says so; the rest are made."""
    begun: list[str] = []
    left = list(crashes)
    real: Callable[..., Any] = attempt_module.Attempts.make

    async def make(self: Any, job: Job, attempt: Attempt) -> None:
        begun.append(attempt.id)
        if left and left.pop(0):
            raise StoreError("nothing can be written")
        await real(self, job, attempt)

    monkeypatch.setattr(attempt_module.Attempts, "make", make)
    return begun


async def test_a_database_error_that_passes_is_no_failure_of_the_attempt_and_it_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = failing(monkeypatch, StoreError("the disk is busy"))
    job = await world.ended((await world.submit()).id)
    (attempt,) = await world.attempts(job.id)
    assert (job.status, attempt.status, attempt.error) == ("completed", "completed", None)
    assert begun == [attempt.id] * 2


async def test_what_goes_wrong_in_one_attempt_is_its_own_failure_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, None, *[ZeroDivisionError("by zero")] * 4, NotFound("The agent is gone."))
    job = await world.ended((await world.submit(4, max_concurrency=1)).id)
    assert job.status == "completed"
    assert [(attempt.status, attempt.error) for attempt in await world.attempts(job.id)] == [
        ("completed", None),
        ("failed", "ZeroDivisionError: by zero"),
        ("failed", "The agent is gone."),
        ("completed", None),
    ]


async def test_a_defect_in_one_attempt_is_its_own_failure_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("score")

    monkeypatch.setattr(world.rollouts._attempts, "_rewards", broken)
    job = await world.ended((await world.submit(2)).id)
    assert job.status == "completed"
    reasons = [(attempt.status, attempt.error) for attempt in await world.attempts(job.id)]
    assert reasons == [("failed", "Internal error: KeyError: 'score'")] * 2


async def test_a_job_that_never_comes_further_is_failed_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = crashing(monkeypatch, *[True] * 100)
    await world.rollouts.start()
    job = await world.ended((await world.submit(2, max_concurrency=1)).id)
    assert job.status == "failed" and job.error is not None
    assert f"taken up {MAX_TAKES} times" in job.error
    assert [(attempt.status, attempt.error) for attempt in await world.attempts(job.id)] == [("failed", job.error)] * 2
    assert len(begun) <= 2 * MAX_TAKES


async def test_a_job_that_comes_further_each_time_is_taken_up_as_often_as_it_needs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing(monkeypatch, *[False, True] * (MAX_TAKES + 1))
    await world.rollouts.start()
    job = await world.ended((await world.submit(2 * MAX_TAKES, max_concurrency=1)).id)
    assert (job.status, job.takes) == ("completed", 0)
    assert {attempt.status for attempt in await world.attempts(job.id)} == {"completed"}


async def test_a_server_that_stops_leaves_its_jobs_to_the_next_at_once(world: World) -> None:
    world.model.gate.clear()
    job = await world.submit(2)
    await world.rollouts.stop()
    left = await world.job(job.id)
    assert (left.status, left.takes) == ("running", 0)
    assert await world.store.read(lambda: rollout_store.free_jobs(1)) == [job.id]
    world.model.gate.set()
    world.rollouts = world.driver()
    await world.rollouts.start()
    assert (await world.ended(job.id)).status == "completed"
    runs = [attempt.run_ids for attempt in await world.attempts(job.id)]
    assert [len(ids) for ids in runs] == [1, 1]


async def test_cancelling_ends_every_run_of_an_attempts_agent_not_only_those_on_its_record(world: World) -> None:
    world.model.gate.clear()
    job = await world.submit()
    for _ in range(2000):
        (attempt,) = await world.attempts(job.id)
        if attempt.run_ids:
            break
        await asyncio.sleep(0.002)
    assert attempt.agent_id is not None
    now = now_us()
    run = Run(
        id=new_id("run"),
        agent_id=attempt.agent_id,
        conversation_id=attempt.agent_id,
        status="created",
        created_us=now,
        config=RunConfig(),
    )
    message = Message(
        id=new_id("message"),
        role="user",
        created_us=now,
        content=(TextPart("and this"),),
        agent_id=attempt.agent_id,
        conversation_id=attempt.agent_id,
        run_id=run.id,
    )
    await world.runner.submit(run, (message,), (), wait=True)
    cancelled = await world.rollouts.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert [attempt.status for attempt in await world.attempts(job.id)] == ["cancelled"]
    agent_id = attempt.agent_id
    assert await world.store.read(lambda: active_runs(agent_id=agent_id)) == []
    assert (await world.runner.run(run.id)).status == "cancelled"


async def test_one_who_lost_the_job_notes_nothing_more_on_it(world: World) -> None:
    world.model.gate.clear()
    job = await world.submit(1)
    for _ in range(2000):
        (attempt,) = await world.attempts(job.id)
        if attempt.run_ids:
            break
        await asyncio.sleep(0.002)
    assert await world.store.write(lambda: rollout_store.take_job(job.id, "another", 10**18, 10**17)) == 2
    world.model.gate.set()
    for _ in range(2000):
        if not world.rollouts._jobs:
            break
        await asyncio.sleep(0.002)
    (after,) = await world.attempts(job.id)
    assert (after.status, after.run_ids) == ("running", attempt.run_ids)
    assert (await world.job(job.id)).status == "running"


async def test_news_of_a_job_reach_everybody_and_nothing_is_kept_of_them(world: World) -> None:
    world.model.gate.clear()
    job = await world.submit()
    waiting = [asyncio.create_task(world.rollouts.news(job.id, 30.0)) for _ in range(3)]
    await asyncio.sleep(0)
    world.model.gate.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    await world.rollouts.news("job-unknown", 0.0)
    await world.ended(job.id)
    assert len(world.rollouts._news) == 0
