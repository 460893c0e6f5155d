"""What every store must do with batches: begin in order and once, so many at a time, and end with the last item."""

import msgspec
import pytest

from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle
from perdure.core.batches import Batch, BatchRequest
from perdure.core.errors import Conflict, NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import RunConfig
from perdure.runs.janitor import Janitor, Kept
from perdure.store import agents
from perdure.store import batches as batch_store
from perdure.store.base import Query, Store, Tx
from perdure.store.callbacks import callback_of_run, due_callbacks
from perdure.store.listing import Page

CONFIG = RunConfig(background=True)


async def add_agent(store: Store) -> str:
    agent = Agent(id=new_id("agent"), name="A", system="S", model="m", created_us=1, updated_us=1)
    bundle = AgentBundle(agent=agent, blocks=(), tools=())
    system = first_system_message(bundle)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=[], system_message=system))
    return agent.id


async def hand_in(
    store: Store, agent_ids: list[str], *, at: int = 1, url: str | None = None, otid: str | None = None
) -> str:
    message = Message(id=new_id("message"), role="user", created_us=1, content=(TextPart("Hi"),), otid=otid)
    otids = (otid,) if otid else ()
    batch = Batch(id=new_id("job"), status="running", created_us=at, updated_us=at, callback_url=url)
    requests = [BatchRequest(agent_id=id, inputs=(message,), config=CONFIG, otids=otids) for id in agent_ids]
    await store.write(lambda: batch_store.create_batch(batch, requests))
    return batch.id


async def begin(store: Store, most: int) -> list[str]:
    """The agents whose turn it is."""
    return [each.conversation_id for each in await store.write(lambda: batch_store.begin_items(most, now_us()))]


async def end(store: Store, batch_id: str, *statuses: str) -> None:
    """End the runs under way of a batch, in its order."""
    going = [item for item in await items(store, batch_id) if item[1] == "running"]

    def tx() -> Tx[None]:
        for (run_id, _), status in zip(going, statuses, strict=True):
            error = msgspec.json.encode({"message": "No."}) if status == "failed" else None
            fields = ("usage", "context_tokens", "metadata", "ttft_ns", "total_duration_ns")
            ended = {**dict.fromkeys(fields), "id": run_id, "status": status, "error": error}
            yield Query("finish_run", {**ended, "stop_reason": "end_turn", "step_count": 1, "completed_us": 2})

    await store.write(tx)
    await store.write(lambda: batch_store.settle_items(now_us()))


async def items(store: Store, batch_id: str) -> list[tuple[str | None, str]]:
    return [(item.run_id, item.status) for item in await store.read(lambda: batch_store.items_of_batch(batch_id))]


async def states(store: Store, batch_id: str) -> list[str]:
    return [status for _, status in await items(store, batch_id)]


async def status(store: Store, batch_id: str) -> str:
    return (await store.read(lambda: batch_store.batch_by_id(batch_id))).status


async def test_items_begin_in_order_so_many_at_a_time_and_one_of_an_agent(store: Store) -> None:
    one, two, three = [await add_agent(store) for _ in range(3)]
    first = await hand_in(store, [one, one, two])
    second = await hand_in(store, [three, two], at=2)
    assert await begin(store, 2) == [one, two]
    assert await begin(store, 2) == []
    assert await begin(store, 3) == [three]
    await end(store, first, "completed", "completed")
    assert await begin(store, 3) == [one, two]
    assert await states(store, first) == ["completed", "running", "completed"]
    assert await states(store, second) == ["running", "running"]


async def test_a_batch_ends_with_its_last_item(store: Store) -> None:
    one, two = await add_agent(store), await add_agent(store)
    batch = await hand_in(store, [one, two], url="http://told/")
    assert await store.read(batch_store.batches_going)
    await begin(store, 9)
    await end(store, batch, "failed", "completed")
    assert await status(store, batch) == "completed"
    errors = [item.error for item in await store.read(lambda: batch_store.items_of_batch(batch))]
    assert errors == ["No.", None]
    assert not await store.read(batch_store.batches_going)
    due = await store.read(lambda: due_callbacks(now_us()))
    assert [(each.run_id, each.url) for each in due] == [(batch, "http://told/")]


async def test_a_batch_of_which_nothing_succeeded_has_failed(store: Store) -> None:
    batch = await hand_in(store, [await add_agent(store)])
    await begin(store, 9)
    await end(store, batch, "failed")
    assert await status(store, batch) == "failed"


async def test_a_request_to_an_agent_that_was_deleted_fails_alone(store: Store) -> None:
    gone, there = await add_agent(store), await add_agent(store)
    batch = await hand_in(store, [gone, there, gone])
    await store.write(lambda: agents.delete_agent(gone))
    assert await begin(store, 9) == [there]
    assert await states(store, batch) == ["failed", "running", "failed"]
    await store.write(lambda: agents.delete_agent(there))
    await store.write(lambda: batch_store.settle_items(now_us()))
    assert await states(store, batch) == ["failed"] * 3


async def test_a_cancelled_batch_is_told_when_what_was_under_way_has_ended(store: Store) -> None:
    one = await add_agent(store)
    batch = await hand_in(store, [one, one], url="http://told/")
    await begin(store, 9)
    (run_id,) = await store.write(lambda: batch_store.cancel_batch(batch, now_us()))
    assert await states(store, batch) == ["running", "cancelled"]
    assert await store.read(lambda: callback_of_run(batch)) is None
    assert (run_id, "running") in await items(store, batch)
    await end(store, batch, "cancelled")
    assert await states(store, batch) == ["cancelled", "cancelled"]
    assert await store.read(lambda: callback_of_run(batch)) is not None
    assert await status(store, batch) == "cancelled"


async def test_a_batch_that_is_cancelled_before_anything_began_has_ended_at_once(store: Store) -> None:
    batch = await hand_in(store, [await add_agent(store)], url="http://told/")
    assert await store.write(lambda: batch_store.cancel_batch(batch, now_us())) == []
    assert await store.read(lambda: callback_of_run(batch)) is not None
    done = await hand_in(store, [await add_agent(store)])
    await begin(store, 9)
    await end(store, done, "completed")
    with pytest.raises(Conflict, match="already completed"):
        await store.write(lambda: batch_store.cancel_batch(done, now_us()))


async def test_a_request_that_was_accepted_before_is_not_asked_again(store: Store) -> None:
    one = await add_agent(store)
    first = await hand_in(store, [one], otid="hello")
    await begin(store, 9)
    await end(store, first, "completed")
    second = await hand_in(store, [one], otid="hello")
    await begin(store, 9)
    await store.write(lambda: batch_store.settle_items(now_us()))
    assert [run_id for run_id, _ in await items(store, first)] == [run_id for run_id, _ in await items(store, second)]
    assert await status(store, second) == "completed"


async def test_a_batch_that_ended_goes_when_its_time_is_over(store: Store) -> None:
    one = await add_agent(store)
    ended, going = await hand_in(store, [one]), await hand_in(store, [one], at=2)
    await begin(store, 9)
    await end(store, ended, "completed")
    await Janitor(store, "me", Kept(batches_s=0)).clean()
    with pytest.raises(NotFound):
        await store.read(lambda: batch_store.batch_by_id(ended))
    assert await items(store, ended) == []
    assert [batch.id for batch in await store.scan(lambda: batch_store.list_batches(Page(), None))] == [going]
