"""What every store must do with calls that wait for a provider's batch: park their run, and let it go on once, answered."""

import msgspec
import pytest

from perdure.core.batches import Batch, BatchCall, BatchRequest, CallGroup, ProviderBatch
from perdure.core.errors import LeaseLost
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.store import batch_calls, submissions
from perdure.store import batches as batch_store
from perdure.store import runs as run_store
from perdure.store.base import Store
from perdure.store.batch_calls import Answered
from perdure.store.retention import expire_batches
from perdure.store.runs import Lease
from tests.contract.store.test_batches_kept import CONFIG, add_agent

MINUTE_US = 60_000_000


async def hand_in(store: Store, agent_ids: list[str], *, at: int = 1) -> str:
    batch = Batch(id=new_id("job"), status="running", created_us=at, updated_us=at, via="provider")
    requests = [BatchRequest(agent_id=id, inputs=(_said(id),), config=CONFIG) for id in agent_ids]
    await store.write(lambda: batch_store.create_batch(batch, requests))
    return batch.id


def _said(agent_id: str) -> Message:
    text = (TextPart("Hi"),)
    return Message(
        id=new_id("message"), role="user", created_us=1, content=text, agent_id=agent_id, conversation_id=agent_id
    )


async def claim(store: Store, agent_id: str, owner: str = "me") -> Lease | None:
    now = now_us()
    claimed = await store.write(
        lambda: submissions.claim_next(agent_id, owner=owner, until=now + MINUTE_US, now=now, patient=True)
    )
    return claimed.lease if claimed is not None else None


async def begun(store: Store, number: int = 1) -> tuple[str, list[Lease]]:
    """A batch of so many requests to as many agents, all of them claimed."""
    agents = [await add_agent(store) for _ in range(number)]
    batch_id = await hand_in(store, agents)
    await store.write(lambda: batch_store.begin_items(number, now_us()))
    leases = [await claim(store, agent_id) for agent_id in agents]
    return batch_id, [lease for lease in leases if lease is not None]


def group_of(batch_id: str) -> CallGroup:
    return CallGroup(batch_id=batch_id, provider="openai", model="m", path="/chat/completions", headers=(("a", "b"),))


def call_of(lease: Lease, batch_id: str, *, step: int = 0, body: bytes = b'{"model":"m"}') -> BatchCall:
    return BatchCall(
        id=new_id("call"),
        run_id=lease.run_id,
        conversation_id=lease.conversation_id,
        group=group_of(batch_id),
        step=step,
        at="a/b",
        number=0,
        created_us=now_us(),
        body=body,
    )


async def park(store: Store, lease: Lease, call: BatchCall) -> bool:
    return await store.write(lambda: batch_calls.park_call(lease, call))


async def ready(store: Store, *, later_us: int = 0) -> list[CallGroup]:
    return await store.read(lambda: batch_calls.ready_groups(now_us() + later_us, MINUTE_US))


async def made(store: Store, batch_id: str, *, most: int = 10, size: int = 1 << 20) -> ProviderBatch | None:
    return await store.write(
        lambda: batch_calls.make_provider_batch(new_id("batch"), group_of(batch_id), most, size, now_us())
    )


async def test_a_parked_run_is_nobodys_until_its_answer_is_there(store: Store) -> None:
    batch_id, (lease,) = await begun(store)
    call = call_of(lease, batch_id)
    assert await park(store, lease, call)
    assert await claim(store, lease.conversation_id, "other") is None
    assert await store.read(lambda: run_store.orphaned_conversations(now_us())) == []
    with pytest.raises(LeaseLost):
        await park(store, lease, call_of(lease, batch_id))
    assert await ready(store) == [group_of(batch_id)]
    batch = await made(store, batch_id)
    assert batch is not None and batch.count == 1
    assert await ready(store) == []
    assert await store.read(lambda: batch_calls.sent_calls(batch.id)) == [(call.id, call.body)]
    assert await store.write(lambda: batch_calls.wake_answered(5)) == []
    answer = Answered(body=b'{"said":1}')
    await store.write(lambda: batch_calls.answer_calls(batch.id, [(call.id, answer), (call.id, Answered(status=500))]))
    assert await store.read(lambda: batch_calls.sent_calls(batch.id)) == []
    (woken,) = await store.write(lambda: batch_calls.wake_answered(5))
    assert (woken.run_id, woken.conversation_id) == (lease.run_id, lease.conversation_id)
    assert await store.write(lambda: batch_calls.wake_answered(5)) == []
    (kept,) = await store.read(lambda: batch_calls.answers_of_run(lease.run_id))
    assert (kept.place, kept.number, kept.request, kept.answer) == ("a/b", 0, call.body, answer)
    again = await claim(store, lease.conversation_id, "other")
    assert again is not None and again.run_id == lease.run_id


async def test_the_calls_of_an_earlier_step_are_forgotten_with_the_next_ones(store: Store) -> None:
    batch_id, (lease,) = await begun(store)
    first = call_of(lease, batch_id)
    await park(store, lease, first)
    batch = await made(store, batch_id)
    assert batch is not None
    await store.write(lambda: batch_calls.answer_calls(batch.id, [(first.id, Answered())]))
    await store.write(lambda: batch_calls.wake_answered(1))
    lease = await claim(store, lease.conversation_id)
    assert lease is not None
    assert await park(store, lease, call_of(lease, batch_id, step=1))
    assert await store.read(lambda: batch_calls.answers_of_run(lease.run_id)) == []
    assert (await store.read(lambda: run_store.run_by_id(lease.run_id))).attempts == 1


async def test_calls_wait_for_others_of_their_batch_but_not_for_ever(store: Store) -> None:
    batch_id, (one, two) = await begun(store, 2)
    await park(store, one, call_of(one, batch_id))
    assert await ready(store) == []
    assert await ready(store, later_us=2 * MINUTE_US) == [group_of(batch_id)]
    await park(store, two, call_of(two, batch_id))
    assert await ready(store) == [group_of(batch_id)]


async def test_a_provider_batch_has_no_more_calls_and_bytes_than_the_provider_takes(store: Store) -> None:
    batch_id, leases = await begun(store, 4)
    for lease in leases:
        await park(store, lease, call_of(lease, batch_id, body=b"x" * 1000))
    counts: list[int] = []
    for most, size in ((10, 2500), (1, 1 << 20), (10, 1), (10, 1)):
        batch = await made(store, batch_id, most=most, size=size)
        counts.append(batch.count if batch is not None else 0)
    assert counts == [2, 1, 1, 0]


async def test_runs_that_wait_at_a_provider_make_room_for_others(store: Store) -> None:
    batch_id, leases = await begun(store, 2)
    more = await hand_in(store, [await add_agent(store) for _ in range(3)], at=2)
    assert await store.write(lambda: batch_store.begin_items(2, now_us())) == []
    await park(store, leases[0], call_of(leases[0], batch_id))
    assert len(await store.write(lambda: batch_store.begin_items(2, now_us()))) == 1
    assert (await store.read(lambda: batch_store.count_items(more)))["running"] == 1


async def test_a_cancelled_run_that_is_parked_goes_to_whoever_looks_next(store: Store) -> None:
    batch_id, (one, two) = await begun(store, 2)
    await park(store, one, call_of(one, batch_id))
    await park(store, two, call_of(two, batch_id))
    batch = await made(store, batch_id)
    assert batch is not None
    assert await store.write(lambda: run_store.request_cancel(one.run_id, now_us())) == "freed"
    assert (await claim(store, one.conversation_id)) is not None
    assert await store.read(lambda: batch_calls.is_wanted(batch.id))
    await store.write(lambda: run_store.request_cancel(two.run_id, now_us()))
    assert not await store.read(lambda: batch_calls.is_wanted(batch.id))


async def test_a_run_whose_end_is_wanted_already_is_not_parked(store: Store) -> None:
    batch_id, (lease,) = await begun(store)
    assert await store.write(lambda: run_store.request_cancel(lease.run_id, now_us())) == "requested"
    assert not await park(store, lease, call_of(lease, batch_id))
    assert await ready(store) == []
    again = await claim(store, lease.conversation_id, "other")
    assert again is not None and again.run_id == lease.run_id


async def test_what_a_batch_did_not_answer_is_answered_with_its_end(store: Store) -> None:
    batch_id, (lease,) = await begun(store)
    await park(store, lease, call_of(lease, batch_id))
    batch = await made(store, batch_id)
    assert batch is not None
    end = Answered(status=504, final=True)
    await store.write(lambda: batch_calls.end_provider_batch(batch.id, end))
    assert await store.read(lambda: batch_calls.provider_batch(batch.id)) is None
    assert [s for s, _ in await store.read(lambda: batch_calls.provider_batches_of(batch_id))] == ["ended"]
    assert len(await store.write(lambda: batch_calls.wake_answered(5))) == 1
    (kept,) = await store.read(lambda: batch_calls.answers_of_run(lease.run_id))
    assert kept.answer == end


async def test_a_batch_that_was_not_taken_gives_its_calls_back_for_later(store: Store) -> None:
    batch_id, (lease,) = await begun(store)
    await park(store, lease, call_of(lease, batch_id))
    batch = await made(store, batch_id)
    assert batch is not None
    await store.write(lambda: batch_calls.give_back_calls(batch.id, now_us() + MINUTE_US))
    assert await ready(store) == []
    assert await ready(store, later_us=2 * MINUTE_US) == [group_of(batch_id)]


async def test_only_one_of_two_processes_notes_that_it_handed_a_batch_in(store: Store) -> None:
    batch_id, (lease,) = await begun(store)
    await park(store, lease, call_of(lease, batch_id))
    batch = await made(store, batch_id)
    assert batch is not None
    one = msgspec.structs.replace(batch, remote_id="remote-1")
    two = msgspec.structs.replace(batch, remote_id="remote-2")
    assert await store.write(lambda: batch_calls.change_provider_batch(one, now_us()))
    assert not await store.write(lambda: batch_calls.change_provider_batch(two, now_us()))
    assert await store.read(lambda: batch_calls.provider_batch(batch.id)) == one
    assert await store.read(lambda: batch_calls.due_provider_batches(now_us())) == [one]


async def test_its_calls_go_with_a_batch_that_is_not_kept_any_longer(store: Store) -> None:
    batch_id, (lease,) = await begun(store)
    await park(store, lease, call_of(lease, batch_id))
    batch = await made(store, batch_id)
    assert batch is not None
    await store.write(lambda: run_store.request_cancel(lease.run_id, now_us()))
    await store.write(lambda: batch_store.cancel_batch(batch_id, now_us()))
    assert await store.write(lambda: expire_batches(now_us() + MINUTE_US))
    assert await store.read(lambda: batch_calls.provider_batches_of(batch_id)) == []
    assert await store.read(lambda: batch_calls.sent_calls(batch.id)) == []
