"""What many at once cost: thousands of runs that wait, a thousand followers of one run, and what a message asks of the database.

These are measured when they are named. A run that is lost, or a follower that misses an event, is a LoadError.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from perdure.bench.load import Connection, LoadError
from perdure.bench.probe import PLAIN, Bench, ask, directive, percentile, send
from perdure.bench.process import rss_bytes
from perdure.bench.report import Figure

HELD_MS = 5.0  # for each run that is to wait
A_CONVERSATION = 100  # what may wait for one
SENDERS = 16
LOOK_S = 0.2
DRAIN_TIMEOUT_S = 900.0
ATTACH_S = 4.0
PACE = 50


async def queue(bench: Bench) -> list[Figure]:
    """`plan.queued` runs are accepted behind others that take long, many for each conversation; then all of them end."""
    count = bench.plan.queued
    ids = await bench.create_agents(math.ceil(count / A_CONVERSATION))
    connections = await bench.connect(SENDERS)
    slow = directive(delay=round(count * HELD_MS))
    places = iter([(ids[at % len(ids)], slow if at < len(ids) else PLAIN) for at in range(count)])
    before = rss_bytes(bench.pid) if bench.pid is not None else 0
    peak = 0

    async def accept(connection: Connection) -> None:
        for agent_id, text in places:
            await ask(connection, "POST", f"/v1/agents/{agent_id}/messages/async", {"input": text})

    async with bench.spending() as spent:
        started = time.perf_counter()
        await asyncio.gather(*(accept(connection) for connection in connections))
        accepted_s = time.perf_counter() - started
        waiting = await _waiting(connections[0])
        while await _waiting(connections[0]):
            peak = max(peak, rss_bytes(bench.pid) if bench.pid is not None else 0)
            if time.perf_counter() - started > DRAIN_TIMEOUT_S:
                raise LoadError(f"After {DRAIN_TIMEOUT_S:.0f} s {await _waiting(connections[0])} runs still wait.")
            await asyncio.sleep(LOOK_S)
        await _until_idle(connections[0], ids)
        drained_s = time.perf_counter() - started - max(accepted_s, count * HELD_MS / 1000)
    completed = sum([await _completed(connections[0], agent_id) for agent_id in ids])
    if completed != count:
        raise LoadError(f"Of {count} runs {completed} were completed.")
    return bench.figures(
        {
            "queue.accepted": count / accepted_s,
            "queue.drained": count / drained_s,
            "queue.cpu": spent.cpu_s / count * 1e3,
            "queue.rss": max(0, peak - before) / 1e6,
        },
        runs=count,
        conversations=len(ids),
        waiting_when_all_were_accepted=waiting,
    )


async def followers(bench: Bench) -> list[Figure]:
    """`plan.followers` clients read one run's tokens as they come, each from the first on."""
    count, tokens = bench.plan.followers, bench.plan.followed_tokens
    (agent_id,) = await bench.create_agents(1)
    writer, *readers = [await bench.target.open() for _ in range(1 + count)]  # those of before may be closed by now
    before = rss_bytes(bench.pid) if bench.pid is not None else 0
    body = {
        "input": directive(tokens=tokens, pace=PACE, delay=round(ATTACH_S * 1000)),
        "streaming": True,
        "stream_tokens": True,
        "background": True,
    }
    async with bench.spending() as spent:
        written = asyncio.create_task(writer.stream(f"/v1/agents/{agent_id}/messages", body))
        run_id = await _run_of(readers[0], agent_id)
        path = f"/v1/runs/{run_id}/stream"
        read = [asyncio.create_task(reader.stream(path, {"starting_after": 0})) for reader in readers]
        await asyncio.sleep(ATTACH_S)
        during = rss_bytes(bench.pid) if bench.pid is not None else 0
        own, seen = await written, await asyncio.gather(*read)
    for connection in (writer, *readers):
        connection.close()
    for times in (own, *seen):
        if not times.ended_well or len(times.tokens) != tokens:
            raise LoadError(f"A follower of {tokens} tokens saw {len(times.tokens)}, ended well: {times.ended_well}.")
    gaps = [b - a for times in seen for a, b in zip(times.tokens, times.tokens[1:], strict=False)]
    values = {"followers.cpu": spent.cpu_s / (count * tokens) * 1e6, "followers.gap": percentile(gaps, 0.95) * 1e3}
    if bench.pid is not None:
        values["followers.rss"] = max(0, during - before) / 1e6
    return bench.figures(values, followers=count, tokens=tokens, a_second=PACE)


async def database(bench: Bench) -> list[Figure]:
    """What a plain message, which is one step, asks of the database after so many others."""
    (connection,) = await bench.connect(1)
    figures: list[Figure] = []
    for length in bench.plan.database_history:
        (agent_id,) = await bench.create_agents(1)
        for _ in range(length // 2):
            await send(connection, agent_id, PLAIN)
        costs: list[tuple[float, float]] = []
        for _ in range(bench.plan.database_messages):
            statements, seconds = await _work(connection)
            await send(connection, agent_id, PLAIN)
            after = await _work(connection)
            costs.append((after[0] - statements, after[1] - seconds))
        figures += bench.figures(
            {
                f"database.statements_{length}": percentile([cost[0] for cost in costs], 0.5),
                f"database.time_{length}": percentile([cost[1] for cost in costs], 0.5) * 1e3,
            },
            messages=len(costs),
            p95_ms=percentile([cost[1] for cost in costs], 0.95) * 1e3,
        )
    return figures


async def _metric(connection: Connection, *names: str) -> list[float]:
    answer = await connection.request("GET", "/metrics")
    lines: dict[str, str] = {}
    for line in answer.body.decode().splitlines():
        name, _, value = line.rpartition(" ")
        lines[name] = value
    missing = [name for name in names if name not in lines]
    if answer.status != 200 or missing:
        raise LoadError(f"/metrics answered {answer.status} without {', '.join(missing)}.")
    return [float(lines[name]) for name in names]


async def _waiting(connection: Connection) -> int:
    active, queued = await _metric(connection, "perdure_runs_active", "perdure_runs_queued")
    return round(active + queued)


async def _work(connection: Connection) -> tuple[float, float]:
    statements, seconds = await _metric(
        connection, "perdure_database_statements_total", "perdure_database_seconds_total"
    )
    return statements, seconds


async def _until_idle(connection: Connection, ids: list[str]) -> None:
    """What is counted is a second old: ask for the runs themselves."""
    for agent_id in ids:
        while await ask(connection, "GET", f"/v1/runs/?agent_id={agent_id}&active=true&limit=1"):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)


async def _completed(connection: Connection, agent_id: str) -> int:
    runs = await ask(connection, "GET", f"/v1/runs/?agent_id={agent_id}&limit=1000")
    return sum(run["status"] == "completed" for run in runs)


async def _run_of(connection: Connection, agent_id: str) -> str:
    for _ in range(200):
        if runs := await ask(connection, "GET", f"/v1/runs/?agent_id={agent_id}&limit=1"):
            return runs[0]["id"]
        await asyncio.sleep(0.02)
    raise LoadError("The run to follow did not begin.")


CROWDS: dict[str, Callable[[Bench], Coroutine[Any, Any, list[Figure]]]] = {
    "queue": queue,
    "followers": followers,
    "database": database,
}
