"""News and events between servers by a Redis or Valkey stream, so that followers need not ask PostgreSQL.

Invariant: nothing is kept in Redis that is not in the database. While it is away news goes by LISTEN/NOTIFY, and whoever comes
back to it is told "resync", so its loss only slows down.
"""

import asyncio
import logging
import os
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from perdure.core.errors import StoreError
from perdure.store.commits import EventChunk
from perdure.store.signals import Feed, Handler, Kind, Signals

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

KEPT = 20_000  # entries of the stream, about: those who are away for longer are told to look for themselves
MAX_FED = 65_536  # bytes of events; more are read from the database
BLOCK_MS = 5_000
TIMEOUT_S = 3.0


class _News(Struct, frozen=True, array_like=True):
    kind: Kind
    id: str
    chunk: EventChunk | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_News]).decode


class RedisSignals:
    """`url`: redis://, rediss:// or unix://. `name`: of the database, so that several may share one Redis.
    `fallback`: what else there is; it is listened to all the time."""

    shared = True

    def __init__(self, url: str, fallback: Signals, *, name: str = "") -> None:
        self._redis = _client(url)
        self._fallback = fallback
        self._stream = f"perdure:{name}"
        self._me = f"{os.getpid()}-{uuid.uuid4().hex[:8]}".encode()
        self._news: list[_News] = []
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._handlers: list[tuple[Handler, Feed | None]] = []
        self._ready = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether news goes by Redis now."""
        return self._ready.is_set()

    def publish(self, kind: Kind, id: str, chunk: EventChunk | None = None) -> None:
        if not self._ready.is_set():
            self._fallback.publish(kind, id, chunk)
            return
        if chunk is not None and len(chunk.body) > MAX_FED:
            chunk = None
        self._news.append(_News(kind, id, chunk))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def start(self, handler: Handler, feed: Feed | None = None) -> None:
        self._handlers.append((handler, feed))
        await self._fallback.start(handler, feed)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        try:
            await asyncio.wait_for(self._ready.wait(), TIMEOUT_S)
        except TimeoutError:
            log.warning("Redis does not answer; news goes by PostgreSQL until it does")

    async def close(self) -> None:
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=1)
        for task in (self._listening, self._sending):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._ready.clear()
        await self._redis.aclose()
        await self._fallback.close()

    async def _send(self) -> None:
        from redis.exceptions import RedisError

        while self._news:
            news, self._news = self._news, []
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._redis.xadd(
                        self._stream, {b"by": self._me, b"news": _encode(news)}, maxlen=KEPT, approximate=True
                    )
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("news goes by PostgreSQL, as Redis failed: %s: %s", type(error).__name__, error)
                self._ready.clear()
                for item in (*news, *self._news):
                    self._fallback.publish(item.kind, item.id, item.chunk)
                self._news = []
                if self._listening is not None:
                    self._listening.cancel()  # the reader would notice much later
                    self._listening = asyncio.create_task(self._listen(pause_s=0.5))

    async def _listen(self, pause_s: float = 0.0) -> None:
        from redis.exceptions import RedisError

        told = pause_s > 0
        while True:
            await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    last = await self._redis.xrevrange(self._stream, count=1)
                at: Any = last[0][0] if last else b"0"
                self._ready.set()
                for handler, _ in self._handlers:
                    handler("resync", "")
                pause_s, told = 0.1, False
                while True:
                    async with asyncio.timeout(BLOCK_MS / 1000 + TIMEOUT_S):
                        found: Any = await self._redis.xread({self._stream: at}, block=BLOCK_MS, count=200)
                    for _, entries in found or ():
                        for entry, fields in entries:
                            at = entry
                            self._heard(fields)
            except (RedisError, OSError, TimeoutError) as error:
                self._ready.clear()
                if not told:
                    log.warning("not listening to Redis: %s: %s", type(error).__name__, error)
                told = True
            pause_s = min(max(pause_s, 0.1) * 2, 2.0)

    def _heard(self, fields: dict[bytes, bytes]) -> None:
        if fields.get(b"by") == self._me:
            return
        try:
            news = _decode(fields[b"news"])
        except (KeyError, msgspec.DecodeError, msgspec.ValidationError):
            log.warning("the Redis stream %s holds an entry of another version", self._stream)
            return
        for item in news:
            for handler, feed in self._handlers:
                if item.chunk is not None and feed is not None:
                    feed(item.id, item.chunk)
                handler(item.kind, item.id)


def _client(url: str) -> "Redis":
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise StoreError(
            "PERDURE_REDIS_URL is set, but Redis's client is not installed: pip install 'perdure[redis]'."
        ) from error
    try:
        return Redis.from_url(url, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0))
    except ValueError as error:
        raise StoreError(f"PERDURE_REDIS_URL: {error}") from error
