"""What every store must do when runs and steps are looked at again."""

from typing import Any

import msgspec
import pytest

from perdure.core.errors import Conflict, NotFound
from perdure.core.ids import new_id
from perdure.core.runs import RunConfig, Step
from perdure.store import run_reads, runs, steps
from perdure.store.base import Query, Store, Tx
from perdure.store.listing import Page
from perdure.store.run_reads import RunFilter
from perdure.store.steps import StepFilter


async def add_run(store: Store, at: int, **fields: Any) -> str:
    run_id = new_id("run")
    params = {
        "id": run_id,
        "agent_id": "agent-1",
        "conversation_id": "agent-1",
        "status": "completed",
        "background": 0,
        "created_us": at,
        "attempts": 1,
        "config": msgspec.json.encode(RunConfig()),
        "input": b"[]",
        "metadata": None,
    }

    def tx() -> Tx[None]:
        yield Query("insert_run", params | fields)

    await store.write(tx)
    return run_id


async def add_step(store: Store, run_id: str, at: int, **fields: Any) -> str:
    step = Step(
        **{
            "id": new_id("step"),
            "run_id": run_id,
            "agent_id": "agent-1",
            "conversation_id": "agent-1",
            "created_us": at,
            "status": "success",
            **fields,
        }
    )
    row = {"id": step.id, "run_id": run_id, "agent_id": step.agent_id, "created_us": at, "model": step.model}

    def tx() -> Tx[None]:
        yield Query("insert_step", row | {"body": msgspec.json.encode(step)})

    await store.write(tx)
    return step.id


async def test_runs_are_found_by_what_they_are(store: Store) -> None:
    one = await add_run(store, 1)
    two = await add_run(store, 2, status="running", background=1, agent_id="agent-2", conversation_id="conv-1")

    async def ids(**wanted: Any) -> list[str]:
        return [run.id for run in await store.scan(lambda: run_reads.list_runs(RunFilter(**wanted), Page()))]

    assert await ids() == [two, one]
    assert await ids(agent_ids=("agent-1",)) == [one]
    assert await ids(statuses=("running", "created")) == [two]
    assert await ids(background=False) == [one]
    assert await ids(conversation_id="conv-1") == [two]
    assert await ids(default_conversation=True) == [one]
    assert await ids(stop_reason="end_turn") == []


async def test_only_an_ended_run_can_be_deleted(store: Store) -> None:
    ended, going = await add_run(store, 1), await add_run(store, 2, status="running")
    step = await add_step(store, ended, 1)
    with pytest.raises(Conflict):
        await store.write(lambda: run_reads.delete_run(going))
    await store.write(lambda: run_reads.delete_run(ended))
    for gone in (lambda: runs.run_by_id(ended), lambda: steps.step_by_id(step), lambda: run_reads.delete_run(ended)):
        with pytest.raises(NotFound):
            await store.write(gone)


async def test_steps_are_found_by_what_they_are(store: Store) -> None:
    run = await add_run(store, 1)
    one = await add_step(store, run, 10, model="m1", tags=("x",), trace_id="t1")
    two = await add_step(store, run, 20, model="m2")
    await store.write(lambda: steps.give_feedback(two, "positive", ("y", "y")))

    async def ids(page: Page | None = None, **wanted: Any) -> list[str]:
        given = page or Page(descending=False)
        return [step.id for step in await store.scan(lambda: steps.list_steps(StepFilter(**wanted), given))]

    assert await ids() == [one, two]
    assert await ids(model="m1") == [one]
    assert await ids(feedback="positive") == [two]
    assert await ids(has_feedback=False) == [one]
    assert await ids(from_us=11) == [two]
    assert await ids(to_us=10) == [one]
    assert await ids(tags=("x", "y")) == [one, two]
    assert await ids(Page(descending=True, limit=1), tags=("x", "y")) == [two]
    assert await ids(Page(descending=False, limit=1, before=two), tags=("x",)) == [one]
    assert await ids(trace_ids=("t1",)) == [one]
    found = await store.read(lambda: steps.step_by_id(two))
    assert (found.feedback, found.tags) == ("positive", ("y",))
    again = await store.write(lambda: steps.give_feedback(two, None, ()))
    assert (again.feedback, again.tags) == (None, ("y",))


async def test_sifting_by_tag_reads_on_past_steps_without_it(store: Store) -> None:
    run = await add_run(store, 1)
    wanted = [await add_step(store, run, 1, tags=("x",))]
    for at in range(2, 520):
        await add_step(store, run, at)
    wanted.append(await add_step(store, run, 600, tags=("x",)))
    found = await store.scan(lambda: steps.list_steps(StepFilter(tags=("x",)), Page(limit=2, descending=False)))
    assert [step.id for step in found] == wanted
    found = await store.scan(
        lambda: steps.list_steps(StepFilter(tags=("x",)), Page(limit=1, descending=False, before=wanted[1]))
    )
    assert [step.id for step in found] == wanted[:1]


async def test_a_step_without_a_kept_trace_has_none(store: Store) -> None:
    step = await add_step(store, await add_run(store, 1), 1)
    assert await store.read(lambda: steps.trace_of_step(step)) is None
    with pytest.raises(NotFound):
        await store.read(lambda: steps.trace_of_step(new_id("step")))
