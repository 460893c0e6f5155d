"""Short news between the server processes of one database: that a run has new events, is to be cancelled, or made room;
that the providers users added have changed, or that somebody has or wants a share of their limits.

News may be lost or come twice: whoever listens looks at the database for the truth, and also looks now and then without news.
"""

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from perdure.store.commits import EventChunk
    from perdure.store.postgres import PostgresStore

log = logging.getLogger(__name__)

Kind = Literal["events", "cancel", "freed", "queued", "providers", "limits", "resync"]
Handler = Callable[[Kind, str], None]
Feed = Callable[[str, "EventChunk"], None]
CHANNEL = "perdure"
MAX_PAYLOAD = 7_900  # PostgreSQL takes 8,000 bytes
GATHER_S = 0.002


class Signals(Protocol):
    """`shared`: there may be other processes. "resync": some news may have been missed."""

    shared: bool

    def publish(self, kind: Kind, id: str, chunk: "EventChunk | None" = None) -> None:
        """Tell the other processes, soon; never waits and never fails. `chunk`: the run's events this is about, as stored."""
        ...

    async def start(self, handler: Handler, feed: Feed | None = None) -> None:
        """Tell `handler` from now on; there may be several. `feed` is given the events that came with news, before it."""
        ...

    async def close(self) -> None: ...


class NoSignals:
    """One process: there is nobody to tell."""

    shared = False

    def publish(self, kind: Kind, id: str, chunk: "EventChunk | None" = None) -> None:
        pass

    async def start(self, handler: Handler, feed: Feed | None = None) -> None:
        pass

    async def close(self) -> None:
        pass


class PostgresSignals:
    """LISTEN/NOTIFY, which carries no events.

    News of a few milliseconds travels as one notification, outside of the transactions it is about, so that commits do not
    queue for the notification lock.
    """

    shared = True

    def __init__(self, store: "PostgresStore") -> None:
        self._store = store
        self._me = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._news: dict[str, None] = {}
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._handlers: list[Handler] = []
        self._ready = asyncio.Event()

    def publish(self, kind: Kind, id: str, chunk: "EventChunk | None" = None) -> None:
        self._news[f"{kind} {id}"] = None
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def start(self, handler: Handler, feed: Feed | None = None) -> None:
        self._handlers.append(handler)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        elif self._ready.is_set():
            handler("resync", "")
        with contextlib.suppress(TimeoutError):  # the database is away: it keeps trying in the background
            await asyncio.wait_for(self._ready.wait(), 5)

    async def close(self) -> None:
        if self._sending is not None:  # the others are to know what was handed over to them
            await asyncio.wait([self._sending], timeout=1)
        for task in (self._listening, self._sending):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _send(self) -> None:
        while self._news:
            await asyncio.sleep(GATHER_S)
            news, self._news = list(self._news), {}
            try:
                async with self._store.connection() as connection:
                    for payload in _payloads(self._me, news):
                        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
            except Exception as error:  # the others look for themselves before long
                log.warning("news to the other servers was lost: %s: %s", type(error).__name__, error)

    def _tell(self, kind: Kind, id: str) -> None:
        for handler in self._handlers:
            handler(kind, id)

    async def _listen(self) -> None:
        import asyncpg

        def heard(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            sender, _, news = payload.partition("\n")
            if sender == self._me:
                return
            for line in news.split("\n"):
                kind, _, id = line.partition(" ")
                self._tell(kind, id)  # type: ignore[arg-type]

        pause = 0.1
        while True:
            connection: Any = None
            try:
                connection = await asyncpg.connect(self._store.url, timeout=5)
                ended = asyncio.Event()
                connection.add_termination_listener(partial(_set, ended))
                await connection.add_listener(CHANNEL, heard)
                self._ready.set()
                self._tell("resync", "")
                pause = 0.1
                await ended.wait()
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ) as error:
                log.warning("not listening to the other servers: %s: %s", type(error).__name__, error)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)


def _set(event: asyncio.Event, _connection: Any) -> None:
    event.set()


def _payloads(sender: str, news: list[str]) -> list[str]:
    """The news as few notifications, each within the limit."""
    found: list[str] = []
    current = sender
    for line in news:
        if len(current) + len(line) + 1 > MAX_PAYLOAD:
            found.append(current)
            current = sender
        current += "\n" + line
    found.append(current)
    return found
