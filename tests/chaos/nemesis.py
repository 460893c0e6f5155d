"""Breaks one thing after the other, at random and by a seed, and mends each of them again."""

import asyncio
import random
import signal
import subprocess
from typing import Any

from tests.chaos.world import Member, World

BEYOND_THE_LEASE_S = 10.0


class Nemesis:
    """`done`: what it did, in words, for the report of a failure. `only`: the names of the blows, if not all of them."""

    def __init__(self, world: World, rng: random.Random, only: tuple[str, ...] = ()) -> None:
        self._world = world
        self._rng = rng
        self.done: list[str] = []
        acts = [(self._kill_server, 4), (self._kill_engine, 2), (self._cut_engine, 2), (self._pause_server, 1)]
        if world.postgres is not None:
            acts += [
                (self._kill_database, 2),
                (self._cut_database, 2),
                (self._silence_database, 1),
                (self._stop_server, 1),
            ]
        wanted = [act for act in acts if not only or act[0].__name__.removeprefix("_") in only]
        self._acts, self._weights = zip(*wanted, strict=True)

    async def rage(self, over: asyncio.Event) -> None:
        """Until `over`, and then until everything is mended. Each kind of blow comes once at a time, different ones together."""
        going: dict[Any, asyncio.Task[None]] = {}
        while not over.is_set():
            act = self._rng.choices(self._acts, self._weights)[0]
            if act in going and going[act].done():
                going.pop(act).result()  # what breaks the breaking itself is no course
            if act not in going:
                going[act] = asyncio.ensure_future(self._blow(act))
            await asyncio.sleep(self._rng.uniform(0.2, 1.2))
        await asyncio.gather(*going.values())

    async def _blow(self, act: Any) -> None:
        """And time to go on, which a database needs most: it is everyone's."""
        await act()
        await asyncio.sleep(self._rng.uniform(5, 15) if act == self._kill_database else self._rng.uniform(0.5, 3))

    def _member(self) -> Member | None:
        """One that is not paused."""
        running = [member for member in self._world.members if not member.stopped]
        return self._rng.choice(running) if running else None

    def _note(self, what: str) -> None:
        self.done.append(f"{asyncio.get_running_loop().time():.1f} {what}")

    async def _kill_server(self) -> None:
        if (member := self._member()) is None:
            return
        member.stopped = True
        self._note(f"kill -9 {member.server.port}")
        await asyncio.to_thread(member.server.kill)
        await asyncio.sleep(self._rng.uniform(0, 1))
        await self._started(member)

    async def _stop_server(self) -> None:
        """As a deploy does."""
        if (member := self._member()) is None:
            return
        member.stopped = True
        self._note(f"SIGTERM {member.server.port}")
        try:
            await asyncio.to_thread(member.server.stop)
        except subprocess.TimeoutExpired:
            self._note(f"{member.server.port} did not stop within its time")
            await asyncio.to_thread(member.server.kill)
        await self._started(member)

    async def _started(self, member: Member) -> None:
        """As a supervisor does it: where there is no database at the moment, the server is started again."""
        while True:
            try:
                await asyncio.to_thread(member.server.start)
            except RuntimeError as error:
                self._note(f"{member.server.port} did not start: {str(error)[-200:]}")
                if member.server.process is not None and member.server.process.poll() is None:
                    await asyncio.to_thread(member.server.kill)
                await asyncio.sleep(0.5)
            else:
                member.stopped = False
                return

    async def _pause_server(self) -> None:
        if (member := self._member()) is None:
            return
        member.stopped = True
        self._note(f"SIGSTOP {member.server.port}")
        member.send(signal.SIGSTOP)
        await asyncio.sleep(BEYOND_THE_LEASE_S)
        self._note(f"SIGCONT {member.server.port}")
        member.send(signal.SIGCONT)
        member.stopped = False

    async def _kill_engine(self) -> None:
        self._note("kill -9 engine")
        await asyncio.to_thread(self._world.engine.kill)
        await asyncio.sleep(self._rng.uniform(0, 0.5))
        await self._world.engine.start()

    async def _cut_engine(self) -> None:
        member = self._rng.choice(self._world.members)
        self._note(f"cut {member.server.port} off from the engine")
        member.engine.cut()
        await asyncio.sleep(self._rng.uniform(0, 0.5))
        member.engine.mend()

    async def _kill_database(self) -> None:
        postgres = self._world.postgres
        assert postgres is not None
        self._note("kill the database")
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(self._rng.uniform(0, 2))
        await asyncio.to_thread(postgres.start)

    async def _cut_database(self) -> None:
        member = self._rng.choice(self._world.members)
        assert member.database is not None
        self._note(f"cut {member.server.port} off from the database")
        member.database.cut()
        await asyncio.sleep(self._rng.uniform(0, 3))
        member.database.mend()

    async def _silence_database(self) -> None:
        """Nothing arrives, and nothing says so: for longer than the lease, now and then."""
        member = self._rng.choice(self._world.members)
        assert member.database is not None
        self._note(f"silence between {member.server.port} and the database")
        member.database.silence()
        await asyncio.sleep(self._rng.choice((1.0, 3.0, BEYOND_THE_LEASE_S)))
        member.database.cut()
        member.database.mend()
