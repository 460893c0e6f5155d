"""Processes are lost one after the other, each at a write, while messages of one conversation come in and wait for each other:
the runs are told one behind the other, in the order of acceptance, and none is lost, doubled or stuck.

A course is a function of its seed. PERDURE_PROMISES=long plays a thousand of them, PERDURE_SEED one.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest

from perdure.core.errors import AgentError
from perdure.runs.runner import Runner
from perdure.store.base import Built, Tx
from perdure.store.sqlite import SqliteStore
from tests.unit.runs.test_crash_everywhere import DyingStore, Story
from tests.unit.runs.test_interrupted_steps import kept, messages, new_world
from tests.unit.runs.test_runner import World

ONE = os.environ.get("PERDURE_SEED")
SEEDS = [int(ONE)] if ONE else range(1000 if os.environ.get("PERDURE_PROMISES") == "long" else 25)
PROCESSES = 4
REQUESTS = 6


@pytest.mark.parametrize("seed", SEEDS)
async def test_runs_wait_their_turn_whoever_is_lost(seed: int, tmp_path: Path, empty_database: bytes) -> None:
    rng = random.Random(seed)
    path = tmp_path / "perdure.db"
    path.write_bytes(empty_database)
    store = SqliteStore(path, synchronous="OFF")
    world = await new_world(store)
    world.registry.model = Story(rng)  # type: ignore[assignment]
    asked = [f"m{number}" for number in range(REQUESTS)]
    accepted: dict[str, str] = {}
    gone: list[tuple[Runner, DyingStore]] = []
    try:
        for _ in range(PROCESSES):
            dying = DyingStore(store, rng.randrange(1, 30), written=rng.random() < 0.5)
            runner = Runner(dying, world.registry, world.sandbox)  # type: ignore[arg-type,attr-defined]
            gone.append((runner, dying))
            await _live(runner, dying, world, rng, asked, accepted)
            await store.write(_expire)
            assert await store.scan(_strays) == []
        last = Runner(store, world.registry, world.sandbox)  # type: ignore[arg-type,attr-defined]
        await last.start()
        world.runner = last
        for text in asked:
            accepted[text] = await world.submit(text, otid=text, background=True, streaming=True, stream_tokens=True)
        for run_id in accepted.values():
            async for _ in last.follow(run_id):
                pass
        assert await store.scan(_strays) == []
        await last.stop()
        await _check(world, accepted)
    finally:
        for runner, dying in gone:
            dying.gone.set()
            runner._stopping = True
            tasks = [job.task for job in list(runner._jobs.values()) if job.task]
            await asyncio.gather(*tasks, *runner._background, return_exceptions=True)
        await store.close()


async def _live(
    runner: Runner, dying: DyingStore, world: World, rng: random.Random, asked: list[str], accepted: dict[str, str]
) -> None:
    """One process from its start to its loss; clients send what was not acknowledged yet, in order."""
    world.runner = runner
    starting = asyncio.ensure_future(runner.start())

    async def send() -> None:
        for text in asked:
            if text not in accepted:
                options = {"background": True, "streaming": True, "stream_tokens": True}
                try:
                    accepted[text] = await world.submit(text, otid=text, **options)
                except AgentError:
                    return
                for _ in range(rng.choice((0, 0, 5, 50))):
                    await asyncio.sleep(0)

    sending = asyncio.ensure_future(send())
    for _ in range(2000):
        if dying.lost.is_set() or (sending.done() and not runner.active and not runner.waiting):
            break
        await asyncio.sleep(0.0005)
    dying.lost.set()
    for task in (sending, starting, *runner._background):
        task.cancel()
    await asyncio.gather(sending, starting, *list(runner._background), return_exceptions=True)


def _expire() -> Tx[None]:
    yield Built("UPDATE conversations SET lease_until_us = 1 WHERE active_run_id IS NOT NULL", {})


def _strays() -> Tx[list[tuple[str, str | None]]]:
    """Runs that were begun and whose conversation does not know of it."""
    rows = yield Built(
        "SELECT r.id, c.active_run_id FROM runs r JOIN conversations c ON c.id = r.conversation_id "
        "WHERE r.status = 'running' AND (c.active_run_id IS NULL OR c.active_run_id <> r.id)",
        {},
    )
    return [(row[0], row[1]) for row in rows]


async def _check(world: World, accepted: dict[str, str]) -> None:
    said = [message for message in await messages(world) if message.interrupted is None]
    turns = [message.run_id for message in said if message.role == "user"]
    assert turns == list(accepted.values())
    order = [message.run_id for at, message in enumerate(said) if not at or message.run_id != said[at - 1].run_id]
    assert order == turns, "runs are mixed"
    for run_id in turns:
        run = await world.runner.run(run_id)
        assert run.status == "completed"
        assert run.step_count == sum(message.role == "assistant" for message in said if message.run_id == run_id)
    assert await kept(world.store) == 0
