"""What every store must do when a summary takes the place of the older part of a context."""

from typing import Any

import pytest

from perdure.core.errors import LeaseLost, StoreError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import Run, RunConfig, Usage
from perdure.store.base import Store
from perdure.store.commits import StepCommit, commit_step
from perdure.store.compaction import NewContext
from perdure.store.conversations import ConversationState, conversation_state
from perdure.store.messages import context_messages, insert_messages
from perdure.store.runs import Lease
from perdure.store.submissions import submit_run
from tests.contract.store.test_agents_kept import create


def message(agent_id: str, role: Any, text: str) -> Message:
    return Message(
        id=new_id("message"),
        role=role,
        created_us=now_us(),
        content=(TextPart(text),),
        agent_id=agent_id,
        conversation_id=agent_id,
    )


async def context(store: Store, agent_id: str) -> tuple[ConversationState, list[Message]]:
    def tx() -> Any:
        state = yield from conversation_state(agent_id)
        return state, (yield from context_messages(state.id, state.head_ids, state.tail_from))

    return await store.scan(tx)


async def leased(store: Store) -> tuple[str, Lease]:
    """An agent with four messages in its history, and the lease of a run on it."""
    agent_id = (await create(store)).id
    said = tuple(message(agent_id, role, f"{role} {at}") for at in range(2) for role in ("user", "assistant"))
    await store.write(lambda: insert_messages(said))
    run = Run(
        id=new_id("run"),
        agent_id=agent_id,
        conversation_id=agent_id,
        status="created",
        created_us=now_us(),
        config=RunConfig(compact_only=True),
    )
    until = now_us() + 10_000_000
    accepted = await store.write(
        lambda: submit_run(run, (), otids=(), owner="me", until=until, wait=True, max_queued=5)
    )
    assert accepted.lease is not None
    return agent_id, accepted.lease


def compaction(agent_id: str, lease: Lease, system: Message, kept_from: str | None) -> StepCommit:
    summary = message(agent_id, "summary", "the notes")
    new = NewContext(
        system=system,
        summary_id=summary.id,
        kept_from=kept_from,
        compiled_revision=7,
        cause="compaction",
        detail="2 of 4",
    )
    return StepCommit(
        lease=lease,
        agent_id=agent_id,
        now=now_us(),
        usage=Usage(),
        step_count=0,
        messages=(summary,),
        context=new,
    )


async def test_the_context_becomes_the_summary_and_what_is_kept(store: Store) -> None:
    agent_id, lease = await leased(store)
    before, held = await context(store, agent_id)
    commit = compaction(agent_id, lease, held[0], held[3].id)
    await store.write(lambda: commit_step(commit))
    after, found = await context(store, agent_id)
    assert [each.text for each in found[1:]] == ["the notes", "user 1", "assistant 1"]
    assert found[0].id == held[0].id
    assert after.context_version == before.context_version + 1
    assert (after.compiled_revision, after.break_cause) == (7, "compaction: 2 of 4")
    more = message(agent_id, "user", "what next?")
    await store.write(lambda: insert_messages((more,)))
    assert (await context(store, agent_id))[1][-1].id == more.id


async def test_a_context_compacted_again_keeps_what_was_kept(store: Store) -> None:
    agent_id, lease = await leased(store)
    _, held = await context(store, agent_id)
    for kept in (held[3].id, held[4].id, None):
        commit = compaction(agent_id, lease, held[0], kept)
        await store.write(lambda commit=commit: commit_step(commit))
    assert [each.text for each in (await context(store, agent_id))[1][1:]] == ["the notes"]


async def test_a_worker_whose_lease_is_gone_replaces_nothing(store: Store) -> None:
    agent_id, lease = await leased(store)
    before, held = await context(store, agent_id)
    late = Lease(lease.conversation_id, lease.run_id, lease.owner, lease.fence - 1)
    commit = compaction(agent_id, late, held[0], held[3].id)
    with pytest.raises(LeaseLost):
        await store.write(lambda: commit_step(commit))
    assert await context(store, agent_id) == (before, held)


async def test_a_context_that_somebody_replaced_meanwhile_is_left_alone(store: Store) -> None:
    agent_id, lease = await leased(store)
    before, held = await context(store, agent_id)
    commit = compaction(agent_id, lease, held[0], new_id("message"))
    with pytest.raises(StoreError, match="replaced"):
        await store.write(lambda: commit_step(commit))
    assert await context(store, agent_id) == (before, held)
