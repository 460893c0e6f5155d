"""Breaks one thing after the other, at random and by a seed, and mends each of them again."""

import asyncio
import random
import signal
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from tests.chaos.proxy import Proxy
from tests.chaos.world import Member, World

BEYOND_THE_LEASE_S = 10.0
PAUSES_S = (1.0, 3.0, BEYOND_THE_LEASE_S)
STORM_S, CALM_S = 20.0, 6.0  # everything is mended now and then: what is always broken shows nothing


class Blow(NamedTuple):
    """`weight`: how often it comes, beside the others'. `rest_s`: how long its kind then rests, at least and at most."""

    name: str
    weight: int
    strike: Callable[[], Awaitable[None]]
    rest_s: tuple[float, float] = (0.5, 3.0)


class Nemesis:
    """`done`: what it did, in words, for the report of a failure. `only`: the names of the blows, if not all of them."""

    def __init__(self, world: World, rng: random.Random, only: tuple[str, ...] = ()) -> None:
        self._world = world
        self._rng = rng
        self.done: list[str] = []
        blows = [
            Blow("kill_member", 4, self._kill_member),
            Blow("pause_member", 1, self._pause_member),
            *self._against("engine", world.engine, rest_s=(3.0, 10.0)),
        ]
        if world.postgres is not None:
            blows.append(Blow("stop_member", 1, self._stop_member))
            blows += self._against("database", world.postgres, rest_s=(5.0, 15.0))  # it is everyone's
        if world.redis is not None:
            blows += self._against("redis", world.redis, rest_s=(0.5, 3.0))
        self._blows = [blow for blow in blows if not only or blow.name in only]

    def _against(self, what: str, process: Any, *, rest_s: tuple[float, float]) -> list[Blow]:
        """What is killed and paused, and what everybody is cut off from. `rest_s`: how long each of these then rests."""
        one = asyncio.Lock()  # what is paused is not killed too: it would be away for longer than anyone waits for it
        return [
            Blow(f"kill_{what}", 2, partial(self._kill, what, process, one), rest_s),
            Blow(f"pause_{what}", 1, partial(self._pause, what, process, one), rest_s),
            Blow(f"cut_{what}", 2, partial(self._cut, what), rest_s),
            Blow(f"silence_{what}", 1, partial(self._silence, what), rest_s),
        ]

    async def rage(self, over: asyncio.Event) -> None:
        """Until `over`, and then until everything is mended. Each kind of blow comes once at a time, different ones together."""
        going: dict[str, asyncio.Task[None]] = {}
        weights = [blow.weight for blow in self._blows]
        clock = asyncio.get_running_loop().time
        until = clock() + STORM_S
        while not over.is_set():
            if clock() > until:
                await asyncio.gather(*going.values())
                going.clear()
                self._note("calm")
                await asyncio.sleep(CALM_S)
                until = clock() + STORM_S
            blow = self._rng.choices(self._blows, weights)[0]
            if blow.name in going and going[blow.name].done():
                going.pop(blow.name).result()  # what breaks the breaking itself is no course
            if blow.name not in going:
                going[blow.name] = asyncio.ensure_future(self._deal(blow, over))
            await asyncio.sleep(self._rng.uniform(0.2, 1.2))
        await asyncio.gather(*going.values())

    async def _deal(self, blow: Blow, over: asyncio.Event) -> None:
        await blow.strike()
        rest_s = self._rng.uniform(*blow.rest_s)
        if not over.is_set():
            await asyncio.sleep(rest_s)

    def _member(self) -> Member | None:
        """One that is neither paused nor down."""
        running = [member for member in self._world.members if not member.stopped]
        return self._rng.choice(running) if running else None

    def _note(self, what: str) -> None:
        self.done.append(f"{asyncio.get_running_loop().time():.1f} {what}")

    async def _kill_member(self) -> None:
        if (member := self._member()) is None:
            return
        member.stopped = True
        self._note(f"kill -9 {member.name}")
        await asyncio.to_thread(member.program.kill)
        await asyncio.sleep(self._rng.uniform(0, 1))
        await self._started(member)

    async def _stop_member(self) -> None:
        """As a deploy does."""
        if (member := self._member()) is None:
            return
        member.stopped = True
        self._note(f"SIGTERM {member.name}")
        try:
            await asyncio.to_thread(member.program.stop)
        except subprocess.TimeoutExpired:
            self._note(f"{member.name} did not stop within its time")
            await asyncio.to_thread(member.program.kill)
        await self._started(member)

    async def _started(self, member: Member) -> None:
        """As a supervisor does it: where there is no database at the moment, it is started again."""
        while True:
            try:
                await asyncio.to_thread(member.program.start)
            except RuntimeError as error:
                self._note(f"{member.name} did not start: {str(error)[-200:]}")
                if member.program.process is not None and member.program.process.poll() is None:
                    await asyncio.to_thread(member.program.kill)
                await asyncio.sleep(0.5)
            else:
                member.stopped = False
                return

    async def _pause_member(self) -> None:
        if (member := self._member()) is None:
            return
        member.stopped = True
        self._note(f"SIGSTOP {member.name}")
        member.send(signal.SIGSTOP)
        await asyncio.sleep(BEYOND_THE_LEASE_S)
        self._note(f"SIGCONT {member.name}")
        member.send(signal.SIGCONT)
        member.stopped = False

    async def _kill(self, what: str, process: Any, one: asyncio.Lock) -> None:
        async with one:
            self._note(f"kill the {what}")
            await asyncio.to_thread(process.kill)
            await asyncio.sleep(self._rng.uniform(0, 2))
            await asyncio.to_thread(process.start)

    async def _pause(self, what: str, process: Any, one: asyncio.Lock) -> None:
        """It is there and does not answer."""
        async with one:
            self._note(f"SIGSTOP the {what}")
            await asyncio.to_thread(process.pause)
            await asyncio.sleep(self._rng.choice(PAUSES_S))
            await asyncio.to_thread(process.resume)
            self._note(f"SIGCONT the {what}")

    def _link(self, what: str) -> tuple[Member, Proxy]:
        member = self._rng.choice(self._world.members)
        return member, member.links[what]

    async def _cut(self, what: str) -> None:
        member, link = self._link(what)
        self._note(f"cut {member.name} off from the {what}")
        link.cut()
        await asyncio.sleep(self._rng.uniform(0, 3))
        link.mend()

    async def _silence(self, what: str) -> None:
        """Nothing arrives, and nothing says so: for longer than the lease, now and then."""
        member, link = self._link(what)
        self._note(f"silence between {member.name} and the {what}")
        link.silence()
        await asyncio.sleep(self._rng.choice(PAUSES_S))
        link.cut()
        link.mend()
