"""The measurements: each loads a server in one way and tells what that cost it, as figures named in `report.BUDGETS`."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from perdure.bench.load import Connection, StreamTimes
from perdure.bench.probe import (
    PLAIN,
    Bench,
    ask,
    call_of,
    directive,
    one_after_another,
    percentile,
    send,
    stream_once,
)
from perdure.bench.process import rss_bytes
from perdure.bench.report import Figure

CUSTOM_TOOL = '''
def add_numbers(first: int, second: int) -> int:
    """Add two whole numbers.

    Args:
        first (int): The first number.
        second (int): The second number.
    """
    return first + second
'''


async def agents(bench: Bench) -> list[Figure]:
    count = bench.plan.agents
    (connection,) = await bench.connect(1)
    for agent_id in await bench.create_agents(bench.plan.warm_up):
        await ask(connection, "GET", f"/v1/agents/{agent_id}")
    async with bench.spending() as create:
        ids = await bench.create_agents(count)
    async with bench.spending() as get:
        for agent_id in ids:
            await ask(connection, "GET", f"/v1/agents/{agent_id}")
    lists = max(5, count // 5)
    async with bench.spending() as listing:
        for _ in range(lists):
            await ask(connection, "GET", "/v1/agents/?limit=50")
    return bench.figures(
        {
            "agents.create_cpu": create.cpu_s / count * 1e3,
            "agents.get_cpu": get.cpu_s / count * 1e3,
            "agents.list_cpu": listing.cpu_s / lists * 1e3,
        },
        create_wall_ms=create.wall_s / count * 1e3,
        get_wall_ms=get.wall_s / count * 1e3,
        list_wall_ms=listing.wall_s / lists * 1e3,
    )


async def message(bench: Bench) -> list[Figure]:
    (agent_id,) = await bench.create_agents(1)
    times, spent = await one_after_another(bench, agent_id, PLAIN, bench.plan.messages)
    return bench.figures(
        {
            "message.cpu": spent.cpu_s / len(times) * 1e3,
            "message.p50": percentile(times, 0.5) * 1e3,
            "message.p95": percentile(times, 0.95) * 1e3,
        },
        messages=len(times),
        p99_ms=percentile(times, 0.99) * 1e3,
    )


async def throughput(bench: Bench) -> list[Figure]:
    figures: list[Figure] = []
    ids = await bench.create_agents(max(bench.plan.concurrency))
    connections = await bench.connect(max(bench.plan.concurrency))
    for count in bench.plan.concurrency:
        pairs = zip(connections[:count], ids[:count], strict=True)
        async with bench.spending() as spent:
            each = await asyncio.gather(*(_keep_sending(*pair, bench.plan.load_s) for pair in pairs))
        times = [took for taken in each for took in taken]
        values = {f"throughput.{count}": len(times) / spent.wall_s}
        if count == max(bench.plan.concurrency):
            values["throughput.cpu"] = spent.cpu_s / len(times) * 1e3
        figures += bench.figures(
            values,
            messages=len(times),
            p50_ms=percentile(times, 0.5) * 1e3,
            p95_ms=percentile(times, 0.95) * 1e3,
            cpu_ms=spent.cpu_s / len(times) * 1e3 if bench.pid else None,
        )
    return figures


async def _keep_sending(connection: Connection, agent_id: str, for_s: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + for_s
    while time.perf_counter() < end:
        times.append(await send(connection, agent_id, PLAIN))
    return times


async def builtin_tool(bench: Bench) -> list[Figure]:
    text = call_of("memory_insert", {"label": "human", "new_string": "x"})
    (agent_id,) = await bench.create_agents(1, tools=["memory_insert"])
    return await _tool_figures(bench, agent_id, text, "builtin")


async def custom_tool(bench: Bench) -> list[Figure]:
    (connection,) = await bench.connect(1)
    tool = await ask(connection, "PUT", "/v1/tools/", {"source_code": CUSTOM_TOOL})
    (agent_id,) = await bench.create_agents(1, tool_ids=[tool["id"]])
    return await _tool_figures(bench, agent_id, call_of("add_numbers", {"first": 2, "second": 40}), "custom")


async def _tool_figures(bench: Bench, agent_id: str, text: str, kind: str) -> list[Figure]:
    times, spent = await one_after_another(bench, agent_id, text, bench.plan.tool_messages, tool_calls=1)
    cpu_ms = spent.cpu_s / len(times) * 1e3
    return bench.figures(
        {f"tool.{kind}_cpu": cpu_ms, f"tool.{kind}_p50": percentile(times, 0.5) * 1e3},
        messages=len(times),
        p95_ms=percentile(times, 0.95) * 1e3,
    )


async def stream(bench: Bench) -> list[Figure]:
    """Tokens that come faster than they can be passed on, and tokens that each travel alone (1 ms apart)."""
    tokens = bench.plan.stream_tokens
    (agent_id,) = await bench.create_agents(1)
    (connection,) = await bench.connect(1)
    burst = directive(tokens=tokens)
    await stream_once(connection, agent_id, burst, tokens)
    async with bench.spending() as ahead:
        seen = [await stream_once(connection, agent_id, burst, tokens) for _ in range(bench.plan.streams)]
    alone_streams = max(1, bench.plan.streams // 10)
    async with bench.spending() as alone:
        for _ in range(alone_streams):
            await stream_once(connection, agent_id, directive(tokens=tokens, pace=1000), tokens)
    return bench.figures(
        {
            "stream.first_token": percentile([times.tokens[0] for times in seen], 0.5) * 1e3,
            "stream.burst_cpu": ahead.cpu_s / (tokens * len(seen)) * 1e6,
            "stream.alone_cpu": alone.cpu_s / (tokens * alone_streams) * 1e6,
        },
        tokens=tokens,
        first_byte_ms=percentile([times.first_byte_s for times in seen], 0.5) * 1e3,
        note="a stream's fixed cost is spread over its tokens",
    )


async def many_streams(bench: Bench) -> list[Figure]:
    ids = await bench.create_agents(64)
    connections = await bench.connect(64)
    tokens = bench.plan.stream_tokens

    async def together(count: int, text: str, expected: int) -> list[StreamTimes]:
        pairs = zip(connections[:count], ids[:count], strict=True)
        return await asyncio.gather(*(stream_once(*pair, text, expected) for pair in pairs))

    first = await together(64, directive(tokens=5), 5)  # what follows is of agents that have been spoken to
    async with bench.spending() as burst:
        rounds = [await together(16, directive(tokens=tokens), tokens) for _ in range(max(1, bench.plan.streams // 10))]
    figures = bench.figures(
        {
            "stream.first_64": percentile([times.took_s for times in first], 0.95) * 1e3,
            "stream.events": tokens * 16 * len(rounds) / burst.wall_s,
        }
    )
    for count in (16, 64):
        async with bench.spending() as spent:
            seen = await together(count, directive(tokens=100, pace=100), 100)
        values = {f"stream.paced_{count}": percentile([times.took_s for times in seen], 0.95)}
        if count == 64:
            values["stream.paced_cpu"] = spent.cpu_s / (count * 100) * 1e6
        gaps = [b - a for times in seen for a, b in zip(times.tokens, times.tokens[1:], strict=False)]
        figures += bench.figures(
            values,
            ideal_s=1.0,
            gap_p95_ms=percentile(gaps, 0.95) * 1e3,
            first_token_p95_ms=percentile([times.tokens[0] for times in seen], 0.95) * 1e3,
        )
    return figures


async def history(bench: Bench) -> list[Figure]:
    """What a message costs after so many others: the prompt itself grows, nothing else may."""
    costs: dict[int, float] = {}
    (connection,) = await bench.connect(1)
    for length in bench.plan.history:
        # several agents, a few messages to each, so that measuring does not lengthen what is measured by much
        each = max(5, length // 10)
        ids = await bench.create_agents(math.ceil(bench.plan.history_messages / each))
        for agent_id in ids:
            for _ in range(length // 2):
                await send(connection, agent_id, PLAIN)
        async with bench.spending() as spent:
            for agent_id in ids:
                for _ in range(each):
                    await send(connection, agent_id, PLAIN)
        costs[length] = spent.cpu_s / (each * len(ids)) * 1e3
    values = {f"history.{length}": cost for length, cost in costs.items()}
    if costs.get(10) and 1000 in costs:
        values["history.ratio"] = costs[1000] / costs[10]
    return bench.figures(values, messages=bench.plan.history_messages)


async def memory_after(bench: Bench) -> list[Figure]:
    return [] if bench.pid is None else [Figure("load.rss", rss_bytes(bench.pid) / 1e6)]


MEASUREMENTS: dict[str, Callable[[Bench], Coroutine[Any, Any, list[Figure]]]] = {
    "agents": agents,
    "message": message,
    "builtin tool": builtin_tool,
    "custom tool": custom_tool,
    "stream": stream,
    "many streams": many_streams,
    "history": history,
    "throughput": throughput,
    "memory": memory_after,
}
