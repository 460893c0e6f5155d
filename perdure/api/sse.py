"""A run's events as a server-sent event stream: replay from a seq_id, live frames, pings while nothing comes.

Headers go out only once the run is durable. A client that leaves ends only its own stream, never the run.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from perdure.api.frames import FrameEncoder
from perdure.core.events import Event
from perdure.core.ids import now_us
from perdure.core.runs import Run
from perdure.runs.runner import Runner

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Encoder(Protocol):
    """Makes bytes of a run's events: `frames` of consecutive ones, `ping` while there are none (`last_seq`: of the last one)."""

    def frames(self, first_seq: int, events: Sequence[Event]) -> bytes: ...

    def ping(self, at_us: int, last_seq: int) -> bytes: ...


class EventStream:
    """An ASGI response. `durable`: awaited before the first byte; `after`: the last seq_id the client has.

    `encoder`: how events are framed, where not as Letta's. `numbered`: frames carry their seq_id although the run was not asked
    for in the background.
    """

    def __init__(
        self,
        runner: Runner,
        run: Run,
        *,
        after: int = 0,
        durable: Awaitable[Any] | None = None,
        pings: bool = True,
        ping_interval_s: float = 20.0,
        encoder: Encoder | None = None,
        numbered: bool = False,
    ) -> None:
        self._runner = runner
        self._run = run
        self._after = after
        self._durable = durable
        self._idle_s = ping_interval_s if pings else None
        self._encoder = encoder or FrameEncoder(
            run.id,
            types=run.config.include_return_message_types,
            numbered=numbered or run.config.background,
            compaction=run.config.include_compaction_messages,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._durable is not None:
            await self._durable
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        sender = asyncio.current_task()
        gone = asyncio.create_task(_until_disconnect(receive))

        def leave(_: object) -> None:
            if sender is not None and not gone.cancelled():
                sender.cancel()

        gone.add_done_callback(leave)
        try:
            await self._send_all(send)
        except asyncio.CancelledError:
            if not gone.done() or gone.cancelled():
                raise
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _send_all(self, send: Send) -> None:
        last = self._after
        async for first, events in self._runner.follow(self._run.id, self._after, idle_s=self._idle_s):
            if events:
                body = self._encoder.frames(first, events)
                last = first + len(events) - 1
            else:
                body = self._encoder.ping(now_us(), last)
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
