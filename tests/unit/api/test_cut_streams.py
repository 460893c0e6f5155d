"""A stream that is cut anywhere, in the middle of a frame too, and taken up again behind its last whole frame, is byte for byte
the stream that was never cut: while its run goes on and afterwards, from the process that drives it and from another.

PERDURE_PROMISES=long: ten thousand cuts.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from perdure.api.frames import DONE_FRAME, FrameEncoder
from perdure.core.messages import TextPart, ToolCall
from perdure.core.model import ModelDone, Prompt, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.runs import held
from perdure.runs.runner import Runner
from perdure.store.sqlite import SqliteStore
from tests.unit.runs.test_runner import World, insert, world

__all__ = ["world"]

CUTS = 10_000 if os.environ.get("PERDURE_PROMISES") == "long" else 300
SEED = int(os.environ.get("PERDURE_SEED", str(random.SystemRandom().randrange(10**6))))
READERS = 6
WORDS = ("amber ", "brücke ", "城 ", '"quoted" ', "new\n\nline ", "data: ", "🙂 ")


class Telling:
    """A model that says a few words at a time, and calls tools in between."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.steps = 0

    async def stream(self, prompt: Prompt, tokens: Any = None) -> AsyncIterator[Any]:
        step = sum(message.role == "tool" for message in prompt.messages)
        said: list[str] = []
        for _ in range(self._rng.randrange(20, 60)):
            await asyncio.sleep(self._rng.choice((0, 0, 0.001)))
            said.append(self._rng.choice(WORDS))
            yield [TextChunk(said[-1])]
        calls: tuple[ToolCall, ...] = (insert(f"{step}", f"call_{step}"),) if step < self.steps else ()
        yield [ToolCallChunk(at, call.id, call.name, call.arguments) for at, call in enumerate(calls)]
        content = (TextPart("".join(said)),)
        yield [
            ModelDone(finish="tool_calls" if calls else "stop", content=content, tool_calls=calls, usage=Usage(1, 1, 2))
        ]


async def frames(runner: Runner, run_id: str, after: int) -> AsyncIterator[bytes]:
    encoder = FrameEncoder(run_id, types=None, numbered=True)
    batches: Any = runner.follow(run_id, after)
    async with aclosing(batches):
        async for first, events in batches:
            yield encoder.frames(first, events)


def whole_frames(received: bytes) -> tuple[bytes, int]:
    """The whole frames up to the last numbered one, and its number: what a client has that takes the stream up behind it."""
    kept, last = b"", 0
    at = 0
    while (end := received.find(b"\n\n", at)) >= 0:
        body = received[at:end].partition(b"data: ")[2]
        number = json.loads(body).get("seq_id") if body != b"[DONE]" else None
        at = end + 2
        if number is not None:
            kept, last = received[:at], number
    return kept, last


async def read_in_pieces(runners: list[Runner], run_id: str, rng: random.Random) -> tuple[bytes, int]:
    """The stream as its pieces make it up, and how often it was cut."""
    kept, after, cuts = b"", 0, 0
    while True:
        received, limit = b"", rng.randrange(2_000)
        pieces: Any = frames(rng.choice(runners), run_id, after)
        async with aclosing(pieces):
            async for piece in pieces:
                received += piece
                if len(received) > limit and rng.random() < 0.9:
                    received = received[:limit]
                    break
        if received.endswith(b"\n\n" + DONE_FRAME):
            return kept + received, cuts
        cuts += 1
        piece, last = whole_frames(received)
        kept, after = kept + piece, last or after


@pytest.mark.timeout(600)
async def test_a_stream_cut_anywhere_is_whole_when_it_is_taken_up_again(
    world: World, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "APART_S", 0.002)
    rng, cuts = random.Random(SEED), 0
    world.registry.model = told = Telling(rng)  # type: ignore[assignment]
    other = Runner(store, world.registry, None)  # type: ignore[arg-type]
    while cuts < CUTS:
        told.steps = rng.randrange(3)
        run_id = await world.submit("go", streaming=True, stream_tokens=True, background=True, include_pings=True)
        live = [read_in_pieces([world.runner], run_id, rng) for _ in range(READERS)]
        watched = await asyncio.gather(*live, read_in_pieces([world.runner, other], run_id, rng))
        afterwards = [await read_in_pieces([world.runner, other], run_id, rng) for _ in range(READERS)]
        uncut = b"".join([piece async for piece in frames(other, run_id, 0)])
        for joined, count in (*watched, *afterwards):
            assert joined == uncut, f"PERDURE_SEED={SEED}"
            cuts += count
