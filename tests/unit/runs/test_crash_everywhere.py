"""A worker is lost at every write of a run, just before it or just after, and another goes on: nothing is lost or doubled.

A course is a function of its seed. PERDURE_PROMISES=long plays ten thousand of them, PERDURE_SEED one.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure.core.errors import StoreError
from perdure.core.events import LogEnded, RunStopped
from perdure.core.messages import TextPart, ToolCall
from perdure.core.model import ModelDone, Prompt, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.runs.runner import Runner
from perdure.store import events as event_store
from perdure.store.base import Built, Tx, Write
from perdure.store.sqlite import SqliteStore
from tests.unit.runs.test_interrupted_steps import Sandboxes, kept, messages, new_world
from tests.unit.runs.test_runner import World, insert

ONE = os.environ.get("PERDURE_SEED")
SEEDS = [int(ONE)] if ONE else range(10_000 if os.environ.get("PERDURE_PROMISES") == "long" else 60)
UNSAFE = ("pay", "log")


class DyingStore:
    """The store as a process sees it that is lost at one of its writes: nothing comes back from then on.

    `left`: how many writes still come back. `written`: the last one is carried out, and only its answer is lost.
    """

    def __init__(self, store: SqliteStore, left: int, *, written: bool) -> None:
        self._store = store
        self._left = left
        self._written = written
        self.lost = asyncio.Event()
        self.gone = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, tx: Any, **how: bool) -> Any:
        return await self._unless_lost(self._store.read, tx, **how)

    async def scan(self, tx: Any) -> Any:
        return await self._unless_lost(self._store.scan, tx)

    async def _unless_lost(self, method: Any, tx: Any, **how: bool) -> Any:
        if self.lost.is_set():
            await self._nothing()
        return await method(tx, **how)

    async def write(self, tx: Any, **options: Any) -> Any:
        write = self.begin_write(tx)
        await write.executed
        return await write.committed

    def begin_write(self, tx: Any, **how: bool) -> Write:
        if self.lost.is_set():
            nothing = asyncio.ensure_future(self._nothing())
            nothing.add_done_callback(lambda task: task.cancelled() or task.exception())
            return Write(nothing, nothing)
        self._left -= 1
        if self._left >= 0:
            return self._store.begin_write(tx)
        if self._written:
            self._store.begin_write(tx)
        self.lost.set()
        return self.begin_write(tx)

    async def _nothing(self) -> None:
        await self.gone.wait()
        raise StoreError("The process is gone.")


class Story:
    """A model that says what the seed has it say, as a function of what it is shown."""

    def __init__(self, rng: random.Random) -> None:
        self.steps = [self._calls(rng, step) for step in range(rng.randrange(4))]
        self.asked = 0

    def _calls(self, rng: random.Random, step: int) -> list[ToolCall]:
        names = [rng.choice(("pay", "look", "log", "memory_insert")) for _ in range(rng.choice((1, 1, 2, 3)))]
        return [
            insert(f"{step}.{at}", f"call_{step}_{at}")
            if name == "memory_insert"
            else ToolCall(f"call_{step}_{at}", name, "{}")
            for at, name in enumerate(names)
        ]

    async def stream(self, prompt: Prompt, tokens: Any = None) -> AsyncIterator[Any]:
        self.asked += 1
        step = sum(message.role == "tool" for message in prompt.messages)
        await asyncio.sleep(0)
        yield [TextChunk("I ")]
        await asyncio.sleep(0)
        text = (TextPart(f"I am at {step}"),)
        if step < len(self.steps):
            calls = self.steps[step]
            yield [
                TextChunk(f"am at {step}"),
                *(ToolCallChunk(at, c.id, c.name, c.arguments) for at, c in enumerate(calls)),
            ]
            yield [ModelDone(finish="tool_calls", content=text, tool_calls=tuple(calls), usage=Usage(1, 1, 2))]
        else:
            yield [TextChunk(f"am at {step}")]
            yield [ModelDone(finish="stop", content=text, usage=Usage(1, 1, 2))]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_worker_may_be_lost_at_any_write(seed: int, tmp_path: Path, empty_database: bytes) -> None:
    rng = random.Random(seed)
    path = tmp_path / "perdure.db"
    path.write_bytes(empty_database)
    store = SqliteStore(path, synchronous="OFF")
    told = Story(rng)
    world = await new_world(store)
    world.registry.model = told  # type: ignore[assignment]
    dying = DyingStore(store, rng.randrange(1, 14), written=rng.random() < 0.5)
    first = world.runner = Runner(dying, world.registry, world.sandbox)  # type: ignore[arg-type,attr-defined]
    background = rng.random() < 0.7
    try:
        run_id = await world.submit("go", streaming=True, stream_tokens=True, background=background)
        while first.active and not dying.lost.is_set():
            await asyncio.sleep(0)
        shown = {seq: event for seq, event in enumerate(first._logs[run_id].events, 1)} if background else {}
        await store.write(_expire)
        other = Runner(store, world.registry, world.sandbox)  # type: ignore[arg-type,attr-defined]
        await other.start()
        async for _ in other.follow(run_id):
            pass
        run = await other.run(run_id)
        await other.stop()
        assert (run.status, run.step_count) == ("completed", len(told.steps) + 1)
        await _check(world, told, run_id, shown)
    finally:
        dying.gone.set()
        first._stopping = True
        await asyncio.gather(*(job.task for job in list(first._jobs.values()) if job.task), return_exceptions=True)
        await store.close()


def _expire() -> Tx[None]:
    yield Built("UPDATE conversations SET lease_until_us = 1 WHERE active_run_id IS NOT NULL", {})


async def _check(world: World, told: Story, run_id: str, shown: dict[int, Any]) -> None:
    sandbox: Sandboxes = world.sandbox  # type: ignore[attr-defined]
    said = [message for message in await messages(world) if message.interrupted is None]
    expected = ["user", *("assistant", "tool") * len(told.steps), "assistant"]
    assert [message.role for message in said] == expected
    texts = [message.text for message in said if message.role == "assistant"]
    assert texts == [f"I am at {step}" for step in range(len(told.steps) + 1)]
    returns = [each for message in said for each in message.tool_returns]
    assert [each.tool_call_id for each in returns] == [call.id for step in told.steps for call in step]
    wanted = [each.name for each in returns]
    for name in UNSAFE:
        assert sandbox.ran.count(name) <= wanted.count(name), "a call was repeated"
        succeeded = sum(each.name == name and each.status == "success" for each in returns)
        assert succeeded <= sandbox.ran.count(name), "a call is said to have run and did not"
    lines = [call.id for step in told.steps for call in step if call.name == "memory_insert"]
    assert len((await world.block()).value.split("\n")) == 1 + len(lines)
    assert await kept(world.store) == 0
    assert told.asked <= len(told.steps) + 2, "an answer that was complete and on record was paid for again"
    stored = await world.store.scan(lambda: event_store.events_after(run_id, 0))
    assert [seq for seq, _ in stored] == list(range(1, len(stored) + 1))
    assert sum(isinstance(event, RunStopped) for _, event in stored) == 1 and isinstance(stored[-1][1], LogEnded)
    assert {seq: event for seq, event in stored if seq in shown} == shown, "what was shown is not what is stored"
