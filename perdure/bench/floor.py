"""What the least that any such server must do costs on this machine, beside what it cost where the budgets were set.

A server of its own (`python -m perdure.bench.floor`) does nothing but the essential: it answers requests of many clients, or a
message with one model call and eight rows on the disk, or relays a token.
"""

import argparse
import asyncio
import math
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from perdure.bench.load import Connection, LoadError, Target
from perdure.bench.probe import PLAIN, Bench, Plan, directive
from perdure.bench.process import Child, clean_env, free_port, running, wait_healthy
from perdure.bench.report import Figure
from perdure.providers.http import Answer, Endpoint, Http

ROWS = 8
HISTORY = 20
REQUESTS = 8  # for each message of the plan
CLIENTS = 32
_SCHEMA = "CREATE TABLE rows (id TEXT PRIMARY KEY, agent TEXT, body BLOB); CREATE INDEX rows_agent ON rows (agent, id)"

_json = msgspec.json.Encoder().encode
_read = msgspec.json.Decoder().decode


async def floor(engine_url: str, plan: Plan) -> list[Figure]:
    """Requests come from many clients at once; the others one after another, as the figures they are to be compared with."""
    with tempfile.TemporaryDirectory(prefix="perdure-floor-") as folder:
        port = free_port()
        command = [sys.executable, "-m", "perdure.bench.floor", "--port", str(port), "--engine", engine_url]
        log = Path(folder) / "floor.log"
        with running([*command, "--folder", folder], port=port, env=clean_env({}), name="The floor", log=log) as child:
            wait_healthy(child, "/health", 15.0)
            return await _figures(child, plan)


async def _figures(child: Child, plan: Plan) -> list[Figure]:
    bench = Bench(Target(child.url), child.pid, plan)
    paced = directive(tokens=plan.stream_tokens, pace=1000)
    try:
        request = await _cost(bench, "/request", PLAIN, REQUESTS * plan.messages, clients=CLIENTS)
        message = await _cost(bench, "/message", PLAIN, plan.messages, warm_up=plan.warm_up)
        relayed = await _cost(bench, "/relay", paced, max(1, plan.streams // 10))
    finally:
        bench.close()
    return [
        Figure("floor.request", request * 1e3),
        Figure("floor.message", message * 1e3),
        Figure("floor.token", relayed / plan.stream_tokens * 1e6),
    ]


async def _cost(bench: Bench, path: str, text: str, count: int, *, clients: int = 1, warm_up: int = 1) -> float:
    """CPU seconds of one request among `count`."""
    connections = await bench.connect(clients)
    each = math.ceil(count / clients)

    async def send_some(connection: Connection, times: int) -> None:
        for _ in range(times):
            answer = await connection.request("POST", path, {"input": text})
            if answer.status != 200:
                raise LoadError(f"The floor's {path} answered {answer.status}: {answer.body[:300]!r}")

    await asyncio.gather(*(send_some(connection, warm_up) for connection in connections))
    async with bench.spending() as spent:
        await asyncio.gather(*(send_some(connection, each) for connection in connections))
    return spent.cpu_s / (each * clients)


class _Floor:
    """The server: Starlette, a model call by the client that Perdure has, and one SQLite commit at full durability."""

    def __init__(self, engine_url: str, folder: Path) -> None:
        self._endpoint = Endpoint("scripted", f"{engine_url}/v1")
        self._http = Http()
        self._db = sqlite3.connect(folder / "floor.db", isolation_level=None, check_same_thread=False)
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
        self._writer = ThreadPoolExecutor(1)
        said = _json({"role": "user", "content": f"{PLAIN} again"})
        self._store([(str(uuid.uuid4()), "agent", said) for _ in range(HISTORY)])

    def app(self) -> Starlette:
        routes = [
            Route("/health", self.request),
            Route("/request", self.request, methods=["POST"]),
            Route("/message", self.message, methods=["POST"]),
            Route("/relay", self.relay, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def request(self, request: Request) -> Response:
        await request.body()
        return Response(_json({"stop_reason": "end_turn"}), media_type="application/json")

    async def message(self, request: Request) -> Response:
        text = ""
        async with await self._ask(_read(await request.body())["input"]) as answer:
            while data := await answer.read():
                for frame in data.split(b"\n\n"):
                    if frame.startswith(b"data: {") and (choices := _read(frame[6:])["choices"]):
                        text += choices[0]["delta"].get("content") or ""
        body = _json({"role": "assistant", "content": text, "stop_reason": "end_turn"})
        rows = [(str(uuid.uuid4()), "agent", body) for _ in range(ROWS)]
        await asyncio.get_running_loop().run_in_executor(self._writer, self._store, rows)
        return Response(body, media_type="application/json")

    async def relay(self, request: Request) -> StreamingResponse:
        text = _read(await request.body())["input"]

        async def frames() -> AsyncGenerator[bytes]:
            async with AsyncExitStack() as stack:
                answer = await stack.enter_async_context(await self._ask(text))
                while data := await answer.read():
                    yield data

        return StreamingResponse(frames(), media_type="text/event-stream")

    async def _ask(self, text: str) -> Answer:
        rows = self._db.execute("SELECT body FROM rows WHERE agent = 'agent' ORDER BY id DESC LIMIT ?", (HISTORY,))
        messages = [*(_read(row[0]) for row in rows), {"role": "user", "content": text}]
        body = {"model": "scripted", "stream": True, "messages": messages}
        return await self._http.open(self._endpoint, "/chat/completions", _json(body), retry=False)

    def _store(self, rows: list[tuple[str, str, bytes]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
        self._db.execute("COMMIT")


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m perdure.bench.floor", description="The least a server must do.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    app = _Floor(options.engine, options.folder).app()
    uvicorn.run(app, port=options.port, http="httptools", log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
