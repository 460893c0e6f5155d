"""What the chaos tests break: servers, workers, a database, Redis, an engine, and the connections between them. All
are real processes.

Tools tell the `Ledger` when they run: it lives in the test's process, which nothing here breaks.
"""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.chaos.proxy import Proxy
from tests.doubles.postgres import PostgresProcess
from tests.doubles.redis import RedisProcess
from tests.e2e.conftest import ServerProcess, WorkerProcess, free_port

TOOL = '''
def {name}(marker: str, step: int) -> str:
    """{name} something.

    Args:
        marker: which story
        step: where in it
    """
    import time
    import urllib.request

    urllib.request.urlopen("http://127.0.0.1:{port}/ran?call=" + marker + "-" + str(step), timeout=20).read()
    time.sleep({seconds})
    return "{name} " + marker + " " + str(step)
'''


class Ledger:
    """How often each call was carried out."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/ran", self._ran)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _ran(self, request: web.Request) -> web.Response:
        self.ran[request.query["call"]] += 1
        return web.Response(text="noted")

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


class EngineProcess:
    """The model, which can be killed, paused and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "tests.chaos.engine", str(self.port)])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("the engine did not start")

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        self._send(signal.SIGKILL)
        self._process.wait(10)

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)


class Member:
    """One server, or worker, and how it reaches the engine, the database and Redis: link's name -> proxy. `url`: a server's."""

    def __init__(self, program: ServerProcess | WorkerProcess, name: str, links: dict[str, Proxy]) -> None:
        self.program = program
        self.name = name
        self.links = links
        self.url = program.url if isinstance(program, ServerProcess) else None
        self.stopped = False

    def send(self, number: signal.Signals) -> None:
        assert self.program.process is not None
        self.program.process.send_signal(number)


class World:
    """`postgres` None: one server on SQLite; else `servers` and `workers` on one database, with news by `redis` if there is one.
    Beside workers, only the first server drives runs itself."""

    def __init__(
        self,
        folder: Path,
        postgres: PostgresProcess | None,
        servers: int,
        *,
        workers: int = 0,
        redis: RedisProcess | None = None,
    ) -> None:
        self._folder = folder
        self.postgres = postgres
        self.redis = redis
        self._servers = servers
        self._workers = workers
        self.engine = EngineProcess()
        self.ledger = Ledger()
        self.members: list[Member] = []
        self._database = ""

    async def start(self) -> None:
        await asyncio.gather(self.ledger.start(), asyncio.to_thread(self.engine.start))
        if self.postgres is not None:
            self._database = (await asyncio.to_thread(self.postgres.fresh)).rsplit("/", 1)[1]
        for number in range(self._servers):
            self.members.append(await self._member(f"server-{number}", drives=not number or not self._workers))
        for number in range(self._workers):
            self.members.append(await self._member(f"worker-{number}"))

    async def _member(self, name: str, *, drives: bool = True) -> Member:
        links = {"engine": Proxy(self.engine.port)}
        if self.postgres is not None:
            links["database"] = Proxy(self.postgres.port)
        if self.redis is not None:
            links["redis"] = Proxy(self.redis.port)
        await asyncio.gather(*(link.start() for link in links.values()))
        env = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{links['engine'].port}/v1",
            "OPENAI_API_KEY": "sk-chaos",
            "PYTHONPATH": os.environ.get("PYTHONPATH", "."),
        }
        if self.postgres is not None:
            env["PERDURE_DATABASE_URL"] = f"postgresql://postgres@127.0.0.1:{links['database'].port}/{self._database}"
        if self.redis is not None:
            env["PERDURE_REDIS_URL"] = f"redis://127.0.0.1:{links['redis'].port}/0"
        if not drives:
            env["PERDURE_RUNS"] = "false"
        kind = WorkerProcess if name.startswith("worker") else ServerProcess
        program = await asyncio.to_thread(kind, self._folder / name, env, within_s=90)
        return Member(program, name, links)

    def urls(self) -> list[str]:
        return [member.url for member in self.members if member.url is not None]

    async def stop(self) -> None:
        for member in self.members:
            member.send(signal.SIGCONT)
            await asyncio.to_thread(member.program.stop)
            for link in member.links.values():
                await link.stop()
        self.engine.kill()
        await self.ledger.stop()

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Plain SQL on the database, past every server and every proxy."""
        if self.postgres is None:
            with sqlite3.connect(f"file:{self._folder}/server-0/perdure.db?mode=ro", uri=True) as connection:
                return [tuple(row) for row in connection.execute(sql)]
        import asyncpg

        connection = await asyncpg.connect(self.postgres.url(self._database))
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()
