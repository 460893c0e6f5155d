"""What is kept of model requests on every store: read back whole, and gone with what it belongs to."""

import pytest

from perdure.core.errors import StoreError
from perdure.core.ids import new_id, now_us
from perdure.core.runs import Step, Usage
from perdure.core.traces import BASE_LIFE_US, KeptRequest, TraceBase, kept
from perdure.runs.janitor import Janitor, Kept
from perdure.store.agents import delete_agent
from perdure.store.base import Built, Query, Store, Tx
from perdure.store.commits import StepCommit, commit_step
from perdure.store.runs import Lease
from perdure.store.steps import trace_of_step
from tests.contract.store.test_claims import an_agent
from tests.contract.store.test_presumed import submission

REQUESTS = [b'{"messages": "' + b"as before " * 400 + b"and one more " * at + b'"}' for at in range(4)]


async def a_lease(store: Store) -> Lease:
    (agent_id,) = await an_agent(store, 1)
    _, tx = submission(agent_id)
    lease = (await store.write(tx)).lease
    assert lease is not None
    return lease


async def add_step(store: Store, lease: Lease, request: KeptRequest, *, again: bool = False) -> str:
    now = now_us()
    step = Step(
        id=new_id("step"),
        run_id=lease.run_id,
        agent_id=lease.conversation_id,
        conversation_id=lease.conversation_id,
        created_us=now,
        status="success",
    )
    commit = StepCommit(
        lease=lease,
        agent_id=step.agent_id,
        now=now,
        usage=Usage(),
        step_count=1,
        step=step,
        request=request,
        response=b'{"said": "yes"}',
    )
    await store.write(lambda: commit_step(commit))
    if again:
        await store.write(lambda: commit_step(commit, again=True))
    return step.id


async def add_steps(store: Store, lease: Lease) -> list[str]:
    base: TraceBase | None = None
    steps: list[str] = []
    for request in REQUESTS:
        one, base = kept(request, 100_000, base, now_us())
        steps.append(await add_step(store, lease, one, again=True))
    return steps


async def count(store: Store, table: str) -> int:
    def tx() -> Tx[int]:
        return (yield Built(f"SELECT COUNT(*) FROM {table}", {}))[0][0]

    return await store.read(tx)


async def test_each_is_read_back_whole(store: Store) -> None:
    steps = await add_steps(store, await a_lease(store))
    for step_id, request in zip(steps, REQUESTS, strict=True):
        trace = await store.read(lambda step_id=step_id: trace_of_step(step_id))
        assert trace is not None
        assert (trace.request, trace.response) == (request, b'{"said": "yes"}')
    assert await count(store, "trace_bases") == 1


async def test_nothing_of_a_deleted_agents_is_left(store: Store) -> None:
    lease = await a_lease(store)
    await add_steps(store, lease)
    await store.write(lambda: delete_agent(lease.conversation_id))
    assert (await count(store, "provider_traces"), await count(store, "trace_bases")) == (0, 0)


async def test_a_base_goes_when_nothing_is_kept_against_it_any_longer(store: Store) -> None:
    lease = await a_lease(store)
    now = now_us()
    for ago in (2 * BASE_LIFE_US, BASE_LIFE_US // 2):
        base = TraceBase(new_id("trace-base"), now - ago, (REQUESTS[0],), stored=True)
        await add_step(store, lease, KeptRequest(b"", base.id, base))
    await Janitor(store, "me", Kept(traces_s=60)).clean()
    assert await count(store, "trace_bases") == 1


async def test_one_whose_base_is_gone_says_so(store: Store) -> None:
    *_, last = await add_steps(store, await a_lease(store))

    def lose() -> Tx[None]:
        yield Query("delete_old_trace_bases", {"before": now_us() + 1, "limit": 10})

    await store.write(lose)
    with pytest.raises(StoreError, match=f"{last} cannot be read"):
        await store.read(lambda: trace_of_step(last))
