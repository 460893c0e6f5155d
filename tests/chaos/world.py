"""What the chaos tests break: servers, a database, an engine, and the connections between them. All of them are real processes.

Tools tell the `Ledger` when they run: it lives in the test's process, which nothing here breaks.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.chaos.proxy import Proxy
from tests.doubles.postgres import PostgresProcess
from tests.e2e.conftest import ServerProcess, free_port

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
    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.chaos.engine", str(self.port)])
        for _ in range(1500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
        raise RuntimeError("the engine did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


class Member:
    """One server, and how it reaches the engine and the database."""

    def __init__(self, server: ServerProcess, engine: Proxy, database: Proxy | None) -> None:
        self.server = server
        self.engine = engine
        self.database = database
        self.stopped = False

    def send(self, number: signal.Signals) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(number)


class World:
    """`postgres` None: one server on SQLite; else `servers` of them on one database."""

    def __init__(self, folder: Path, postgres: PostgresProcess | None, servers: int) -> None:
        self._folder = folder
        self.postgres = postgres
        self._count = servers
        self.engine = EngineProcess()
        self.ledger = Ledger()
        self.members: list[Member] = []
        self._database = ""

    async def start(self) -> None:
        await asyncio.gather(self.ledger.start(), self.engine.start())
        if self.postgres is not None:
            self._database = (await asyncio.to_thread(self.postgres.fresh)).rsplit("/", 1)[1]
        for number in range(self._count):
            self.members.append(await self._member(number))

    async def _member(self, number: int) -> Member:
        engine, database = Proxy(self.engine.port), None
        await engine.start()
        env = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{engine.port}/v1",
            "OPENAI_API_KEY": "sk-chaos",
            "PYTHONPATH": os.environ.get("PYTHONPATH", "."),
        }
        if self.postgres is not None:
            database = Proxy(self.postgres.port)
            await database.start()
            env["PERDURE_DATABASE_URL"] = f"postgresql://postgres@127.0.0.1:{database.port}/{self._database}"
        server = await asyncio.to_thread(ServerProcess, self._folder / f"server-{number}", env, within_s=90)
        return Member(server, engine, database)

    def urls(self) -> list[str]:
        return [member.server.url for member in self.members]

    async def stop(self) -> None:
        for member in self.members:
            member.send(signal.SIGCONT)
            await asyncio.to_thread(member.server.stop)
            await member.engine.stop()
            if member.database is not None:
                await member.database.stop()
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
