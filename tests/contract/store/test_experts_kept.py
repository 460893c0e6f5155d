"""Routed experts lie beside the record of their call: written with it, read with an export, gone with the agent."""

from typing import Any

import msgspec
import pytest

from perdure.core.errors import LeaseLost
from perdure.core.experts import ExpertRows, keep, unpack
from perdure.core.ids import now_us
from perdure.core.runs import Usage
from perdure.store import ledger
from perdure.store.agents import delete_agent
from perdure.store.base import Query, Store
from perdure.store.commits import StepCommit, commit_step
from tests.contract.store.test_compactions_kept import leased
from tests.unit.tokens.trajectory_ledger import conversation

ROWS = ExpertRows(start=0, layers=3, top_k=2, dtype="uint8", data=bytes(range(6)) * 50, num_experts=8)


async def committed(store: Store) -> tuple[str, StepCommit]:
    """An agent whose first call has its experts on record, and its second has not."""
    agent_id, lease = await leased(store)
    made = conversation()
    segment = msgspec.structs.replace(made.segments[0], conversation_id=agent_id, agent_id=agent_id)
    calls = [
        msgspec.structs.replace(call, conversation_id=agent_id, agent_id=agent_id, run_id=lease.run_id)
        for call in made.calls[:2]
    ]
    calls[0] = msgspec.structs.replace(calls[0], experts=keep(ROWS))
    commits = [
        StepCommit(
            lease=lease,
            agent_id=agent_id,
            now=now_us(),
            usage=Usage(),
            step_count=1,
            segment=None if at else segment,
            call=call,
        )
        for at, call in enumerate(calls)
    ]
    for commit in commits:
        await store.write(lambda commit=commit: commit_step(commit))
    return agent_id, commits[0]


async def test_the_record_of_a_call_is_read_without_them_and_they_are_put_back(store: Store) -> None:
    agent_id, _ = await committed(store)
    bare = await store.read(lambda: ledger.calls_of_conversation(agent_id))
    assert bare[0].experts is not None and bare[0].experts.data == b"" and bare[0].experts.end == 50
    assert bare[1].experts is None
    found = await store.read(lambda: ledger.segment_with_calls(bare[0].segment_id))
    assert found is not None and found[1] == bare
    whole = await store.read(lambda: ledger.with_experts(agent_id, bare))
    assert whole[0].experts is not None and unpack(whole[0].experts) == ROWS
    assert whole[1] == bare[1]


async def test_a_worker_that_lost_its_lease_leaves_none(store: Store) -> None:
    agent_id, commit = await committed(store)
    assert commit.call is not None
    stale = msgspec.structs.replace(
        commit,
        segment=None,
        lease=msgspec.structs.replace(commit.lease, fence=commit.lease.fence - 1),
        call=msgspec.structs.replace(commit.call, id="call-late"),
    )
    with pytest.raises(LeaseLost):
        await store.write(lambda: commit_step(stale))
    rows = await store.read(lambda: _rows(agent_id))
    assert [row[0] for row in rows] == [commit.call.id]


async def test_they_go_with_their_agent(store: Store) -> None:
    agent_id, _ = await committed(store)
    await store.write(lambda: delete_agent(agent_id))
    assert await store.read(lambda: _rows(agent_id)) == []


def _rows(conversation_id: str) -> Any:
    return (yield Query("experts_of_conversation", {"conversation_id": conversation_id}))
