"""Promises that take a broken world to keep: an acknowledged run is durable (R1), a dead process's run is taken up (R2), runs of
a conversation never mix (R6), cancelling is final and fast (R9), a database that comes and goes costs no run (R10), and a deploy
loses nothing (R12).

PERDURE_PROMISES=long plays each of them for as long as its promise says, instead of a minute at most.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.chaos.checker import Evidence, findings, gather
from tests.chaos.clients import Client
from tests.chaos.nemesis import Nemesis
from tests.chaos.story import story
from tests.chaos.test_chaos import agents, at_rest, tell
from tests.chaos.world import World
from tests.doubles.postgres import PostgresProcess, binaries

LONG = os.environ.get("PERDURE_PROMISES") == "long"
SEED = int(os.environ.get("PERDURE_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if LONG else 240)]
on_postgres = pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")


@asynccontextmanager
async def started(world: World) -> AsyncIterator[World]:
    tell(f"PERDURE_CHAOS_SEED={SEED}")
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


async def under(world: World, blows: tuple[str, ...], runs: int, clients: int = 6) -> Evidence:
    """Runs of several clients while only these blows fall; nobody cancels."""
    rng = random.Random(SEED)
    ids = await agents(world, clients)
    playing = [Client(at, random.Random(rng.random()), id, world.urls, kinds=(6, 2, 1, 0)) for at, id in enumerate(ids)]
    over = asyncio.Event()
    raging = asyncio.ensure_future(Nemesis(world, random.Random(rng.random()), only=blows).rage(over))
    stories = [[story(f"p{SEED}c{at}r{n}") for n in range(at, runs, clients)] for at in range(clients)]
    await asyncio.gather(*(client.play(told) for client, told in zip(playing, stories, strict=True)))
    over.set()
    await raging
    await at_rest(world)
    return await gather(world, [transcript for client in playing for transcript in client.transcripts])


async def test_r01_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    """kill -9 at any moment between a request and its answer: 0 acknowledged and lost."""
    rng, acknowledged, wanted = random.Random(SEED), [], 10_000 if LONG else 300
    async with started(World(tmp_path, None, 1)) as world, aiohttp.ClientSession() as session:
        ids = await agents(world, 120 if LONG else 8)  # each takes a hundred waiting messages
        killing = True

        async def submit(at: int) -> None:
            while killing:
                number = len(acknowledged)
                url = f"{world.urls()[0]}/v1/agents/{ids[(8 * number + at) % len(ids)]}/messages/async"
                try:
                    async with session.post(url, json={"input": f"do r{SEED}n{number}"}) as response:
                        if response.status == 200:
                            acknowledged.append((await response.json())["id"])
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)

        submitting = [asyncio.ensure_future(submit(at)) for at in range(8)]
        while len(acknowledged) < wanted:
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            await asyncio.to_thread(world.members[0].program.kill)
            await asyncio.to_thread(world.members[0].program.start)
        killing = False
        await asyncio.gather(*submitting)
        kept = {row[0] for row in await world.rows("SELECT id FROM runs")}
    assert len(acknowledged) >= wanted
    assert set(acknowledged) <= kept


@on_postgres
async def test_r02_what_a_dead_process_left_is_taken_up(tmp_path: Path, postgres: PostgresProcess) -> None:
    """Servers are killed in the middle of their runs; how long it takes until nothing is theirs any more."""
    rng, wanted, took_s = random.Random(SEED), 100 if LONG else 4, list[float]()
    clock = asyncio.get_running_loop().time
    async with started(World(tmp_path, postgres, 2)) as world:
        ids = await agents(world, 6)
        playing = [Client(at, rng, id, world.urls, kinds=(6, 2, 1, 0)) for at, id in enumerate(ids)]

        async def play(at: int) -> None:
            number = 0
            while len(took_s) < wanted:
                number += 1
                await playing[at].play([story(f"d{SEED}c{at}r{number}")])

        load = asyncio.gather(*map(play, range(len(ids))))
        while len(took_s) < wanted:
            await asyncio.sleep(rng.uniform(0.5, 2))
            member = rng.choice(world.members)
            assert member.program.process is not None
            owned = f"lease_owner LIKE '%:{member.program.process.pid}:%' AND active_run_id IS NOT NULL"
            await asyncio.to_thread(member.program.kill)
            since = clock()
            left = await world.rows(f"SELECT active_run_id FROM conversations WHERE {owned}")
            while await world.rows(f"SELECT id FROM conversations WHERE {owned}"):
                await asyncio.sleep(0.1)
            if left:
                took_s.append(clock() - since)
            await asyncio.to_thread(member.program.start)
        await load
        await at_rest(world)
        evidence = await gather(world, [transcript for client in playing for transcript in client.transcripts])
    tell(f"taken up within {percentile(took_s, 50):.1f} s (p50), {percentile(took_s, 99):.1f} s (p99)")
    assert findings(evidence) == []
    assert {run["status"] for run in evidence.runs.values()} == {"completed"}
    assert percentile(took_s, 99) <= 25


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


@on_postgres
async def test_r06_runs_of_one_conversation_never_mix(tmp_path: Path, postgres: PostgresProcess) -> None:
    """Posts to one conversation through both servers, many at once and then one after the other: each runs once, and those that
    were acknowledged one after the other run in that order."""
    count = 64 if LONG else 16
    async with started(World(tmp_path, postgres, 2)) as world, aiohttp.ClientSession() as session:
        (agent_id,) = await agents(world, 1)
        told = [story(f"f{SEED}n{number}") for number in range(count)]

        async def post(number: int) -> str:
            url = f"{world.urls()[number % 2]}/v1/agents/{agent_id}/messages/async"
            async with session.post(url, json={"input": told[number].message}) as response:
                assert response.status == 200, await response.text()
                return (await response.json())["id"]

        runs = await asyncio.gather(*(post(number) for number in range(count // 2)))
        in_order = [await post(number) for number in range(count // 2, count)]
        await at_rest(world, 180)
        evidence = await gather(world, [])
    assert len({*runs, *in_order}) == count == len(evidence.runs)
    assert findings(evidence) == []
    asked = [message["run_id"] for message in evidence.messages if message["role"] == "user"]
    assert asked[count // 2 :] == in_order


@on_postgres
async def test_r09_a_run_is_cancelled_at_any_moment_from_any_server(tmp_path: Path, postgres: PostgresProcess) -> None:
    """Whatever it is in the middle of; it is over when the answer comes, and the conversation takes the next message."""
    count, took_s = 400 if LONG else 24, list[float]()
    clock = asyncio.get_running_loop().time
    async with started(World(tmp_path, postgres, 2)) as world, aiohttp.ClientSession() as session:

        async def play(at: int, agent_id: str) -> None:
            rng = random.Random(f"{SEED}/{at}")
            for number in range(at, count, 4):
                base = f"{rng.choice(world.urls())}/v1/agents/{agent_id}/messages"
                async with session.post(
                    f"{base}/async", json={"input": story(f"x{SEED}n{number}").message}
                ) as response:
                    assert response.status == 200, await response.text()
                    run_id = (await response.json())["id"]
                await asyncio.sleep(rng.uniform(0, 1.5))
                base = f"{rng.choice(world.urls())}/v1/agents/{agent_id}/messages"
                since = clock()
                async with session.post(f"{base}/cancel", json={"run_ids": [run_id]}) as response:
                    assert response.status == 200, await response.text()
                took_s.append(clock() - since)
                rows = await world.rows(f"SELECT status FROM runs WHERE id = '{run_id}'")
                assert rows[0][0] in ("cancelled", "completed")

        await asyncio.gather(*(play(at, id) for at, id in enumerate(await agents(world, 4))))
        await at_rest(world)
        evidence = await gather(world, [])
    tell(f"cancelled within {percentile(took_s, 50):.2f} s (p50), {percentile(took_s, 99):.2f} s (p99)")
    assert findings(evidence) == []
    assert len(evidence.runs) == count
    assert "cancelled" in {run["status"] for run in evidence.runs.values()}
    if LONG:
        assert percentile(took_s, 99) <= 1


@on_postgres
async def test_r10_a_database_that_comes_and_goes_costs_no_run(tmp_path: Path, postgres: PostgresProcess) -> None:
    async with started(World(tmp_path, postgres, 2)) as world:
        evidence = await under(world, ("kill_database",), 5000 if LONG else 30)
    assert findings(evidence) == []
    assert {run["status"] for run in evidence.runs.values()} == {"completed"}


@on_postgres
async def test_r12_a_deploy_loses_nothing(tmp_path: Path, postgres: PostgresProcess) -> None:
    """Servers are stopped and started one after the other under load."""
    async with started(World(tmp_path, postgres, 2)) as world:
        evidence = await under(world, ("stop_member",), 300 if LONG else 30)
    assert findings(evidence) == []
    assert {run["status"] for run in evidence.runs.values()} == {"completed"}
    steps = sum(run["step_count"] for run in evidence.runs.values())
    assert steps == sum(len(transcript.story.calls) + 1 for transcript in evidence.transcripts)
