"""The server under measurement, and the ways to load it: one message, one stream, and what was spent meanwhile.

CPU is the server's process tree's own, so what the load generator and the engine use is not in it; wall time is not clean
of them where they share its cores. One wrong answer raises LoadError: there are no figures of a broken server.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from perdure.bench.load import Answer, Connection, LoadError, StreamTimes, Target
from perdure.bench.process import cpu_s
from perdure.bench.report import Figure

SETTLE_S = 0.05
PLAIN = "hello"


class Plan(Struct, frozen=True):
    """How much of everything. `model`: the handle that reaches the scripted engine.

    `warm_up`: so many messages that SQLite's log has got its size. While it grows, for the first 130 messages after a
    start, every commit costs the file system one of its own: 0.9 ms of CPU.
    """

    model: str = "openai/scripted"
    warm_up: int = 200
    messages: int = 300
    tool_messages: int = 150
    agents: int = 100
    concurrency: tuple[int, ...] = (1, 8, 32, 128)
    load_s: float = 4.0
    streams: int = 40
    stream_tokens: int = 500
    history: tuple[int, ...] = (10, 100, 1000)
    history_messages: int = 100
    queued: int = 5_000
    followers: int = 1_000
    followed_tokens: int = 200
    database_history: tuple[int, ...] = (10, 1000)
    database_messages: int = 60


QUICK = Plan(
    warm_up=5,
    messages=80,
    tool_messages=40,
    agents=30,
    load_s=1.0,
    streams=10,
    history=(10, 100),
    history_messages=40,
    queued=300,
    followers=50,
    followed_tokens=50,
    database_history=(10,),
    database_messages=20,
)


class Spent(Struct):
    cpu_s: float = 0.0
    wall_s: float = 0.0


class Bench:
    """One server under measurement. `pid` None: its CPU and memory cannot be read, and those figures are left out."""

    def __init__(self, target: Target, pid: int | None, plan: Plan) -> None:
        self.target = target
        self.pid = pid
        self.plan = plan
        self._open: list[Connection] = []

    async def connect(self, count: int) -> list[Connection]:
        """`count` connections, opened once and used again."""
        while len(self._open) < count:
            self._open.append(await self.target.open())
        return self._open[:count]

    def close(self) -> None:
        for connection in self._open:
            connection.close()

    @asynccontextmanager
    async def spending(self) -> AsyncGenerator[Spent]:
        """What the server spends on the block, with what it still does a moment after."""
        spent = Spent()
        await asyncio.sleep(SETTLE_S)
        before, started = self._cpu(), time.perf_counter()
        yield spent
        spent.wall_s = time.perf_counter() - started
        await asyncio.sleep(SETTLE_S)
        spent.cpu_s = self._cpu() - before

    def figures(self, values: dict[str, float], **detail: Any) -> list[Figure]:
        """Those of `values` that could be measured: a CPU or memory figure needs the server's pid."""
        needs_pid = ("_cpu", ".cpu", ".rss")
        return [
            Figure(name, value, detail)
            for name, value in values.items()
            if self.pid is not None or not (name.endswith(needs_pid) or name.startswith("history."))
        ]

    def _cpu(self) -> float:
        return 0.0 if self.pid is None else cpu_s(self.pid)

    async def create_agent(self, connection: Connection, **fields: Any) -> str:
        body = {
            "model": self.plan.model,
            "context_window_limit": 500_000,
            "memory_blocks": [{"label": "human", "value": "Ada"}, {"label": "persona", "value": "A test."}],
            **fields,
        }
        answer = await connection.request("POST", "/v1/agents/", body)
        if answer.status != 200:
            raise LoadError(f"Creating an agent answered {answer.status}: {answer.body[:300]!r}")
        return answer.json()["id"]

    async def create_agents(self, count: int, **fields: Any) -> list[str]:
        (connection,) = await self.connect(1)
        return [await self.create_agent(connection, **fields) for _ in range(count)]


async def send(connection: Connection, agent_id: str, text: str, *, tool_calls: int = 0) -> float:
    """Send one message and wait for its answer; returns the seconds. LoadError unless the turn ended as it should."""
    answer = await connection.request("POST", f"/v1/agents/{agent_id}/messages", {"input": text})
    body = answer.body
    if answer.status != 200 or b'"end_turn"' not in body:
        raise LoadError(f"A message was answered with {answer.status}: {body[:300]!r}")
    if tool_calls:
        _check_tools(answer, tool_calls)
    return answer.took_s


def _check_tools(answer: Answer, expected: int) -> None:
    returns = [each for each in answer.json()["messages"] if each["message_type"] == "tool_return_message"]
    failed = [each["tool_return"] for each in returns if each["status"] != "success"]
    if failed or len(returns) != expected:
        raise LoadError(
            f"{len(returns)} of {expected} tool calls returned; failed: {'; '.join(failed)[:500] or 'none'}"
        )


async def stream_once(connection: Connection, agent_id: str, text: str, tokens: int) -> StreamTimes:
    body = {"input": text, "streaming": True, "stream_tokens": True}
    times = await connection.stream(f"/v1/agents/{agent_id}/messages", body)
    if not times.ended_well or len(times.tokens) != tokens:
        raise LoadError(f"A stream of {tokens} tokens brought {len(times.tokens)}, ended well: {times.ended_well}.")
    return times


def directive(**script: Any) -> str:
    """A message that tells the scripted engine what to answer."""
    return f"{PLAIN} [[bench {' '.join(f'{key}={value}' for key, value in script.items())}]]"


def call_of(tool: str, arguments: dict[str, Any]) -> str:
    return directive(tool=tool, args=quote(msgspec.json.encode(arguments).decode(), safe=""))


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of `values` do not exceed (nearest rank). ValueError when there are none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def one_after_another(
    bench: Bench, agent_id: str, text: str, count: int, *, tool_calls: int = 0
) -> tuple[list[float], Spent]:
    (connection,) = await bench.connect(1)
    for _ in range(bench.plan.warm_up):
        await send(connection, agent_id, text, tool_calls=tool_calls)
    async with bench.spending() as spent:
        times = [await send(connection, agent_id, text, tool_calls=tool_calls) for _ in range(count)]
    return times, spent


async def ask(connection: Connection, method: str, path: str, body: Any = None) -> Any:
    answer = await connection.request(method, path, body)
    if answer.status != 200:
        raise LoadError(f"{method} {path} answered {answer.status}: {answer.body[:300]!r}")
    return answer.json()
