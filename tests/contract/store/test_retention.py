"""What every store deletes when it is not kept any longer, and what it never does."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle
from perdure.core.errors import Gone
from perdure.core.events import LogEnded
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import RunConfig
from perdure.runs.janitor import Janitor, Kept
from perdure.store import agents, retention, run_reads, runs
from perdure.store.base import Query, Store, Tx
from perdure.store.commits import insert_events
from perdure.store.events import check_log, chunk, events_after
from perdure.store.leases import take_named_lease
from perdure.store.messages import insert_messages, messages_of_run
from perdure.store.submissions import KEY_LIFE_US

HOUR = 3600 * 1_000_000
ALL = Kept(events_s=3600, traces_s=3600, callbacks_s=3600, ticks_s=3600, batches_s=3600)


async def ask(store: Store, *queries: Query) -> list[Any]:
    def tx() -> Tx[list[Any]]:
        rows: Sequence[Any] = []
        for query in queries:
            rows = yield query
        return list(rows)

    return await store.write(tx)


async def add_run(store: Store, at: int, *, status: str = "completed", agent_id: str = "agent-1") -> str:
    """A run with one event and one message; one that has ended did so at once."""
    run_id = new_id("run")
    row = {
        "id": run_id,
        "agent_id": agent_id,
        "conversation_id": agent_id,
        "status": "running",
        "background": 1,
        "created_us": at,
        "attempts": 1,
        "config": msgspec.json.encode(RunConfig()),
        "input": b"[]",
        "metadata": None,
    }
    message = Message(
        id=new_id("message"),
        role="user",
        created_us=at,
        content=(TextPart("Hi"),),
        agent_id=agent_id,
        conversation_id=agent_id,
        run_id=run_id,
    )

    def tx() -> Tx[None]:
        yield Query("insert_run", row)
        yield from insert_events(run_id, chunk(1, [LogEnded()]))
        yield from insert_messages((message,))

    await store.write(tx)
    if status != "running":
        await end_run(store, run_id, at, status)
    return run_id


async def end_run(store: Store, run_id: str, at: int, status: str = "completed") -> None:
    fields = ("usage", "step_count", "context_tokens", "error", "metadata", "ttft_ns", "total_duration_ns")
    ended: dict[str, Any] = {**dict.fromkeys(fields), "step_count": 1, "id": run_id, "status": status}
    await ask(store, Query("finish_run", {**ended, "stop_reason": "end_turn", "completed_us": at}))


async def has_log(store: Store, run_id: str) -> bool:
    return bool(await store.scan(lambda: events_after(run_id, 0)))


def janitor(store: Store, kept: Kept = ALL, owner: str = "me") -> Janitor:
    return Janitor(store, owner, kept)


async def test_the_log_of_a_run_goes_when_its_time_is_over_and_what_was_said_stays(store: Store) -> None:
    old, new = await add_run(store, now_us() - 2 * HOUR), await add_run(store, now_us() - HOUR // 2)
    assert await janitor(store).clean()
    assert not await has_log(store, old)
    assert await has_log(store, new)
    assert len(await store.scan(lambda: messages_of_run(old))) == 1
    run = await store.read(lambda: runs.run_by_id(old))
    with pytest.raises(Gone, match=f"{old}.*PERDURE_KEEP_STREAMS"):
        await store.read(lambda: check_log(run))
    kept = await store.read(lambda: runs.run_by_id(new))
    await store.read(lambda: check_log(kept))


async def test_a_run_that_goes_on_keeps_its_log_until_it_has_ended_for_long_enough(store: Store) -> None:
    going = await add_run(store, now_us() - 2 * HOUR, status="running")
    after = await add_run(store, now_us() - 2 * HOUR + 1)
    await janitor(store).clean()
    assert await has_log(store, going)
    assert not await has_log(store, after)
    await end_run(store, going, now_us() - HOUR // 2)
    await janitor(store).clean()
    assert await has_log(store, going)
    await janitor(store, Kept(events_s=60)).clean()
    assert not await has_log(store, going)


async def add_step(store: Store, run_id: str, at: int) -> str:
    step_id = new_id("step")
    step = {"id": step_id, "run_id": run_id, "agent_id": "agent-1", "created_us": at, "model": "m", "body": b"{}"}
    trace = {"step_id": step_id, "created_us": at, "base_id": None, "request": b"{}", "response": b"{}"}
    await ask(store, Query("insert_step", step), Query("insert_trace", trace))
    return step_id


async def test_what_was_sent_to_models_goes_and_the_steps_stay(store: Store) -> None:
    old, new = now_us() - 2 * HOUR, now_us() - HOUR // 2
    steps = [await add_step(store, await add_run(store, at), at) for at in (old, old + 1, new)]
    for _ in range(2):
        await janitor(store).clean()
        traces = [bool(await ask(store, Query("trace_of_step", {"step_id": step_id}))) for step_id in steps]
        assert traces == [False, False, True]
    assert all([await ask(store, Query("step_by_id", {"id": step_id})) for step_id in steps])
    late = await add_step(store, await add_run(store, old + 2), old + 2)
    await janitor(store, Kept(events_s=60)).clean()
    assert await ask(store, Query("trace_of_step", {"step_id": late}))


async def test_more_than_one_chunk_goes_in_a_round(store: Store) -> None:
    begun = now_us() - 2 * HOUR
    made = [await add_run(store, begun + at) for at in range(2 * retention.AT_ONCE + 1)]
    await janitor(store).clean()
    assert [run_id for run_id in made if await has_log(store, run_id)] == []


async def test_for_ever_is_for_ever(store: Store) -> None:
    old = await add_run(store, 1)
    await janitor(store, Kept()).clean()
    assert await has_log(store, old)


async def test_one_process_cleans_at_a_time(store: Store) -> None:
    old = await add_run(store, now_us() - 2 * HOUR)
    now = now_us()
    assert await store.write(lambda: take_named_lease("janitor", "other", until=now + HOUR, now=now))
    assert not await janitor(store).clean()
    assert await has_log(store, old)
    assert await janitor(store, owner="other").clean()
    assert await janitor(store).clean()  # the other has given it back


async def test_a_lease_that_ran_out_is_taken(store: Store) -> None:
    now = now_us()
    assert await store.write(lambda: take_named_lease("janitor", "dead", until=now - 1, now=now))
    assert await janitor(store).clean()


async def test_a_callback_that_was_told_goes_and_one_that_was_not_stays(store: Store) -> None:
    long_ago = now_us() - 2 * HOUR
    for run_id, done in (("run-told", 1), ("run-waits", 0)):
        await ask(
            store,
            Query("insert_callback", {"run_id": run_id, "url": "http://x", "due_us": long_ago}),
            Query(
                "callback_tried",
                {"run_id": run_id, "sent_us": long_ago, "status_code": 200, "error": None, "done": done, "due_us": 0},
            ),
        )
    await janitor(store).clean()
    assert await ask(store, Query("callback_of_run", {"run_id": "run-told"})) == []
    assert len(await ask(store, Query("callback_of_run", {"run_id": "run-waits"}))) == 1


async def test_a_request_key_goes_when_it_stands_for_nothing_any_more(store: Store) -> None:
    for key, at in (("old", now_us() - KEY_LIFE_US - 1), ("new", now_us() - KEY_LIFE_US + HOUR)):
        row = {"conversation_id": "agent-1", "key": key, "digest": b"x", "run_id": "run-1", "now": at}
        await ask(store, Query("put_request_key", row))
    await janitor(store, Kept()).clean()
    found = [
        await ask(store, Query("request_key", {"conversation_id": "agent-1", "key": key})) for key in ("old", "new")
    ]
    assert [len(rows) for rows in found] == [0, 1]


async def test_ticks_go_unless_they_are_being_fired(store: Store) -> None:
    schedule = {"id": "schedule-1", "agent_id": "agent-1", "created_us": 1, "next_us": None, "body": b"{}"}
    await ask(store, Query("insert_schedule", schedule))
    moments = ((1, "fired"), (2, "firing"), (now_us(), "fired"))
    for due_us, status in moments:
        tick = {"schedule_id": "schedule-1", "due_us": due_us, "status": status, "count": 1, "at_us": due_us}
        await ask(store, Query("insert_tick", {**tick, "run_id": None, "reason": None}))
    await janitor(store).clean()
    left = await ask(store, Query("ticks_of_schedule", {"schedule_id": "schedule-1", "before": 2**62, "limit": 9}))
    assert [row[1] for row in left] == [moments[2][0], 2]


async def test_what_is_kept_of_a_request_goes_with_its_run(store: Store) -> None:
    run_id = await add_run(store, 1)
    await add_request(store, run_id, "agent-1")
    await store.write(lambda: run_reads.delete_run(run_id))
    assert await requests_left(store, run_id, "agent-1") == 0


async def test_what_is_kept_of_a_request_goes_with_its_agent(store: Store) -> None:
    agent = Agent(id=new_id("agent"), name="A", system="S", model="m", created_us=1, updated_us=1)
    bundle = AgentBundle(agent=agent, blocks=(), tools=())
    system = first_system_message(bundle)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=[], system_message=system))
    run_id = await add_run(store, 1, agent_id=agent.id)
    await add_request(store, run_id, agent.id)
    await store.write(lambda: agents.delete_agent(agent.id))
    assert await requests_left(store, run_id, agent.id) == 0


async def add_request(store: Store, run_id: str, conversation_id: str) -> None:
    key = {"conversation_id": conversation_id, "key": "k", "digest": b"x", "run_id": run_id, "now": now_us()}
    await ask(store, Query("put_request_key", key))
    await ask(store, Query("insert_callback", {"run_id": run_id, "url": "http://x", "due_us": 1}))


async def requests_left(store: Store, run_id: str, conversation_id: str) -> int:
    keys = await ask(store, Query("request_key", {"conversation_id": conversation_id, "key": "k"}))
    return len(keys) + len(await ask(store, Query("callback_of_run", {"run_id": run_id})))
