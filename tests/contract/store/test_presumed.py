"""What a transaction presumes of its answers: cheap where nobody gets in between, and as if it had asked where somebody does."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core.errors import LeaseLost, NotFound, StoreError
from perdure.core.ids import new_id, now_us
from perdure.core.runs import Run, RunConfig, Usage
from perdure.store.base import Query, Row, Store, Tx
from perdure.store.commits import RunEnd, StepCommit, commit_step
from perdure.store.messages import messages_of_run
from perdure.store.postgres import PostgresStore
from perdure.store.runs import Lease
from perdure.store.submissions import Accepted, submit_run
from tests.contract.store.test_claims import LATER, an_agent, said


def submission(conversation_id: str) -> tuple[Run, Callable[[], Tx[Accepted]]]:
    now = now_us()
    run = Run(
        id=new_id("run"),
        agent_id=conversation_id,
        conversation_id=conversation_id,
        status="created",
        created_us=now,
        config=RunConfig(),
    )
    message = replace(said(conversation_id, conversation_id), run_id=run.id)

    def tx() -> Tx[Accepted]:
        return submit_run(run, (message,), otids=("o",), owner="me", until=now_us() + LATER, wait=True, max_queued=100)

    return run, tx


def step(lease: Lease, agent_id: str, texts: int) -> StepCommit:
    messages = [replace(said(agent_id, lease.conversation_id, "assistant"), run_id=lease.run_id) for _ in range(texts)]
    end = RunEnd(status="completed", stop_reason="end_turn", completed_us=now_us(), total_duration_ns=1)
    return StepCommit(
        lease=lease, agent_id=agent_id, now=now_us(), usage=Usage(), step_count=1, messages=tuple(messages), end=end
    )


def meanwhile(store: Store, sql: str) -> None:
    """Another process gets in between, while this one is in the middle of something."""
    assert isinstance(store, PostgresStore)

    async def do() -> None:
        import asyncpg

        connection = await asyncpg.connect(store.url)
        await connection.execute(sql)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(do()))
    thread.start()
    thread.join()


def interrupted(
    tx: Callable[[], Tx[Any]], after: str, act: Callable[[], None]
) -> tuple[Callable[[], Tx[Any]], list[int]]:
    """`tx`, with `act` happening once, between the answer to the query `after` and what follows; and its number of attempts."""
    attempts: list[int] = []

    def wrapped() -> Tx[Any]:
        attempts.append(1)
        inner = tx()
        rows: list[Row] | None = None
        while True:
            try:
                query = inner.send(rows) if rows is not None else next(inner)
            except StopIteration as done:
                return done.value
            rows = yield query
            if len(attempts) == 1 and isinstance(query, Query) and query.name == after:
                act()

    return wrapped, attempts


@pytest.fixture
def shared(store: Store) -> PostgresStore:
    if not isinstance(store, PostgresStore):
        pytest.skip("SQLite runs one transaction after another")
    return store


async def test_a_submission_takes_three_statements_and_a_step_one(
    shared: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    (agent_id,) = await an_agent(shared, 1)
    _, tx = submission(agent_id)
    asked: list[str] = []
    for method in ("fetch", "fetchrow", "execute", "executemany"):
        original = getattr(asyncpg.Connection, method)

        async def noted(self: Any, sql: str, *parameters: Any, _original: Any = original, **options: Any) -> Any:
            asked.append(sql)
            return await _original(self, sql, *parameters, **options)

        monkeypatch.setattr(asyncpg.Connection, method, noted)
    accepted = await shared.write(tx)
    assert len(asked) == 3 and not any(sql.startswith(("BEGIN", "COMMIT")) for sql in asked), asked
    asked.clear()
    assert accepted.lease is not None
    await shared.write(lambda: commit_step(step(accepted.lease, agent_id, 3)))
    assert len(asked) == 1, asked


@pytest.mark.parametrize("texts", [1, 3, 12])
async def test_messages_of_a_step_keep_their_order(store: Store, texts: int) -> None:
    (agent_id,) = await an_agent(store, 1)
    run, tx = submission(agent_id)
    accepted = await store.write(tx)
    commit = step(accepted.lease, agent_id, texts)
    await store.write(lambda: commit_step(commit))
    found = await store.read(lambda: messages_of_run(run.id))
    assert [message.id for message in found] == [accepted.admitted.inputs[0].id, *(m.id for m in commit.messages)]


async def test_a_conversation_deleted_meanwhile_takes_no_message(shared: PostgresStore) -> None:
    (agent_id,) = await an_agent(shared, 1)
    run, tx = submission(agent_id)
    gone = f"UPDATE conversations SET deleted_us = 1 WHERE id = '{agent_id}'"
    wrapped, attempts = interrupted(tx, "conversation_for_run", lambda: meanwhile(shared, gone))
    with pytest.raises(NotFound):
        await shared.write(wrapped)
    assert len(attempts) == 2
    assert await shared.read(lambda: messages_of_run(run.id)) == []


async def test_a_context_changed_meanwhile_is_read_again(shared: PostgresStore) -> None:
    (agent_id,) = await an_agent(shared, 1)
    _, tx = submission(agent_id)
    edit = f"UPDATE conversations SET context_version = 77 WHERE id = '{agent_id}'"
    wrapped, attempts = interrupted(tx, "conversation_for_run", lambda: meanwhile(shared, edit))
    accepted: Accepted = await shared.write(wrapped)
    assert accepted.state is not None and accepted.state.context_version == 77 and len(attempts) == 2


async def test_a_lease_taken_meanwhile_makes_the_run_wait(shared: PostgresStore) -> None:
    (agent_id,) = await an_agent(shared, 1)
    run, tx = submission(agent_id)
    taken = (
        f"UPDATE conversations SET active_run_id = 'run-x', lease_owner = 'other', fence = fence + 1, "
        f"lease_until_us = {now_us() + LATER} WHERE id = '{agent_id}'"
    )
    wrapped, _ = interrupted(tx, "conversation_for_run", lambda: meanwhile(shared, taken))
    accepted: Accepted = await shared.write(wrapped)
    assert accepted.run_id == run.id and accepted.lease is None


async def test_a_connection_lost_with_the_statement_leaves_its_outcome_unknown(
    shared: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    (agent_id,) = await an_agent(shared, 1)
    run, tx = submission(agent_id)
    attempts: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def lost(self: Any, sql: str, *parameters: Any, **options: Any) -> Any:
        rows = await fetch(self, sql, *parameters, **options)
        if sql.startswith("WITH"):
            attempts.append(sql)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return rows

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "fetch", lost)
        with pytest.raises(StoreError, match="outcome is unknown"):
            await shared.write(tx)
    assert len(attempts) == 1, "what may have been committed is not run again"
    assert len(await shared.read(lambda: messages_of_run(run.id))) == 1


async def test_what_is_raised_because_of_a_presumption_is_looked_at_again(shared: PostgresStore) -> None:
    (agent_id,) = await an_agent(shared, 1)
    _, tx = submission(agent_id)
    lease = (await shared.write(tx)).lease
    attempts: list[int] = []

    def hasty() -> Tx[int]:
        attempts.append(1)
        stale = Lease(agent_id, lease.run_id, lease.owner, lease.fence + 5)
        rows = yield Query(
            "hold_fence",
            {"conversation_id": agent_id, "run_id": stale.run_id, "owner": stale.owner, "fence": stale.fence},
            presumed=((True,),),
        )
        if rows:
            raise ValueError("only where the fence was held")
        return len(attempts)

    assert await shared.write(hasty) == 2


async def test_the_same_otid_sent_twice_at_once_is_one_run(store: Store) -> None:
    (agent_id,) = await an_agent(store, 1)
    sent = [submission(agent_id)[1] for _ in range(6)]
    accepted = await asyncio.gather(*(store.write(tx) for tx in sent))
    assert len({each.run_id for each in accepted}) == 1
    assert sum(each.lease is not None for each in accepted) == 1


async def test_a_step_under_a_void_fence_leaves_nothing(store: Store) -> None:
    (agent_id,) = await an_agent(store, 1)
    run, tx = submission(agent_id)
    lease = (await store.write(tx)).lease
    stale = Lease(lease.conversation_id, lease.run_id, lease.owner, lease.fence - 1)
    with pytest.raises(LeaseLost):
        await store.write(lambda: commit_step(step(stale, agent_id, 2)))
    assert len(await store.read(lambda: messages_of_run(run.id))) == 1
