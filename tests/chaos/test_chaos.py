"""Runs under load while everything they need is killed, paused and cut off; afterwards nothing is lost, doubled or stuck.

PERDURE_CHAOS_SEED: which course it takes (printed; the same seed breaks the same things in the same order, if not at the same
instants). PERDURE_CHAOS_RUNS: how many runs (40; 200 in the long form).
"""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from tests.chaos.checker import findings, gather
from tests.chaos.clients import Client
from tests.chaos.nemesis import Nemesis
from tests.chaos.story import story
from tests.chaos.world import TOOL, World
from tests.doubles.postgres import PostgresProcess, binaries
from tests.doubles.redis import RedisProcess, redis_server

RUNS = int(os.environ.get("PERDURE_CHAOS_RUNS", "40"))
SEED = int(os.environ.get("PERDURE_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
CLIENTS = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 6 * RUNS)]


async def agents(world: World, count: int) -> list[str]:
    """One agent for each client, with the tools of the stories and a block that is everyone's."""
    import aiohttp

    base = world.urls()[0]
    async with aiohttp.ClientSession() as session:
        tools: list[str] = []
        for name in ("note", "look"):
            source = TOOL.format(name=name, port=world.ledger.port, seconds=0.3)
            body = {"source_code": source, "allow_network": True, "idempotent": name == "look"}
            async with session.post(f"{base}/v1/tools", json=body) as response:
                assert response.status == 200, await response.text()
                tools.append((await response.json())["id"])
        async with session.get(f"{base}/v1/tools", params={"name": "memory_insert"}) as response:
            tools.append((await response.json())[0]["id"])
        body = {"label": "journal", "value": ""}
        async with session.post(f"{base}/v1/blocks", json=body) as response:
            block_id = (await response.json())["id"]
        found: list[str] = []
        for _ in range(count):
            body = {"model": "openai/gpt-chaos", "include_base_tools": False, "tool_ids": tools}
            body["block_ids"] = [block_id]
            async with session.post(f"{base}/v1/agents", json=body) as response:
                assert response.status == 200, await response.text()
                found.append((await response.json())["id"])
    return found


async def at_rest(world: World, within_s: float = 60) -> None:
    """Every run over: what dead servers left is taken up within the lease and a sweep."""
    deadline = asyncio.get_running_loop().time() + within_s
    while await world.rows("SELECT id FROM runs WHERE status IN ('created', 'running')"):
        if asyncio.get_running_loop().time() > deadline:
            return  # the checker names them
        await asyncio.sleep(0.25)


async def course(world: World, seed: int, runs: int) -> list[str]:
    """Play one course; what is wrong afterwards."""
    rng = random.Random(seed)
    await world.start()
    try:
        ids = await agents(world, CLIENTS)
        clients = [Client(at, random.Random(rng.random()), id, world.urls) for at, id in enumerate(ids)]
        stories = [[story(f"s{seed}c{at}r{n}") for n in range(at, runs, CLIENTS)] for at in range(CLIENTS)]
        nemesis, over = Nemesis(world, random.Random(rng.random())), asyncio.Event()
        raging = asyncio.ensure_future(nemesis.rage(over))
        await asyncio.gather(*(client.play(told) for client, told in zip(clients, stories, strict=True)))
        over.set()
        await raging
        await at_rest(world)
        transcripts = [transcript for client in clients for transcript in client.transcripts]
        found = findings(await gather(world, transcripts))
    finally:
        await world.stop()
    kinds = [(transcript.kind, transcript.connections) for transcript in transcripts]
    tell(f"seed {seed}: {len(kinds)} runs, {sum(n for _, n in kinds)} connections, {len(nemesis.done)} blows")
    if found:
        wrong = [each for each in transcripts if any(each.story.marker in line for line in found)]
        tell(*nemesis.done, *(f"{each.story.marker}: {'; '.join(each.trail)}" for each in wrong), *found)
    return found


def tell(*lines: str) -> None:
    sys.stderr.write("\n".join(["", *lines, ""]))


async def test_one_server_on_sqlite(tmp_path: Path) -> None:
    tell(f"PERDURE_CHAOS_SEED={SEED} PERDURE_CHAOS_RUNS={RUNS}")
    assert await course(World(tmp_path, None, 1), SEED, RUNS) == []


@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")
async def test_two_servers_on_postgresql(tmp_path: Path, postgres: PostgresProcess) -> None:
    tell(f"PERDURE_CHAOS_SEED={SEED} PERDURE_CHAOS_RUNS={RUNS}")
    assert await course(World(tmp_path, postgres, 2), SEED, RUNS) == []


@pytest.mark.skipif(binaries() is None or redis_server() is None, reason="no PostgreSQL, or no Redis, here")
async def test_servers_and_workers_with_redis(tmp_path: Path, postgres: PostgresProcess, redis: RedisProcess) -> None:
    tell(f"PERDURE_CHAOS_SEED={SEED} PERDURE_CHAOS_RUNS={RUNS}")
    assert await course(World(tmp_path, postgres, 2, workers=2, redis=redis), SEED, RUNS) == []
