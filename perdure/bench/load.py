"""The load generator: as little HTTP/1.1 as the benchmark needs, because it shares the machine with what it measures.

A connection carries one request at a time. Times are seconds since the request was sent.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import msgspec
from msgspec import Struct, field

from perdure.core.errors import AgentError

TOKEN_MARK = b'"message_type":"assistant_message"'
ANSWER_TIMEOUT_S = 60.0

_encode = msgspec.json.Encoder().encode


class LoadError(AgentError):
    """The server did not do what the benchmark asked."""


class Answer(Struct):
    status: int
    body: bytes
    took_s: float

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class StreamTimes(Struct):
    """One stream as its client saw it. `tokens` are the times of its answer's deltas."""

    first_byte_s: float = 0.0
    tokens: list[float] = field(default_factory=list)
    took_s: float = 0.0
    ended_well: bool = False


class Connection(asyncio.Protocol):
    """Opened by `Target.open`."""

    def __init__(self, host: bytes, headers: bytes) -> None:
        self._host = host
        self._headers = headers
        self._parser: Any = None
        self._done: asyncio.Future[None] | None = None
        self._on_body: Callable[[bytes], None] = lambda data: None
        self._transport: asyncio.Transport | None = None

    async def request(self, method: str, path: str, body: Any = None) -> Answer:
        pieces: list[bytes] = []
        started = time.perf_counter()
        status = await self._exchange(method, path, body, pieces.append)
        return Answer(status, b"".join(pieces), time.perf_counter() - started)

    async def stream(self, path: str, body: Any) -> StreamTimes:
        """Send a message and follow its event stream to the end. LoadError if it is refused."""
        times = StreamTimes()
        reader = _FrameCounter(times)
        reader.started = started = time.perf_counter()
        status = await self._exchange("POST", path, body, reader.feed)
        times.took_s = time.perf_counter() - started
        if status != 200:
            raise LoadError(f"POST {path} answered {status}: {reader.rest[:300]!r}")
        return times

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def _exchange(self, method: str, path: str, body: Any, on_body: Callable[[bytes], None]) -> int:
        assert self._transport is not None
        payload = b"" if body is None else _encode(body)
        head = b"%s %s HTTP/1.1\r\nhost: %s\r\n%s" % (method.encode(), path.encode(), self._host, self._headers)
        if payload:
            head += b"content-type: application/json\r\n"
        self._parser = httptools.HttpResponseParser(self)
        self._on_body = on_body
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(payload), payload))
        try:
            await asyncio.wait_for(self._done, ANSWER_TIMEOUT_S)
        except TimeoutError as error:
            raise LoadError(f"{method} {path} was not answered within {ANSWER_TIMEOUT_S:.0f} s.") from error
        return self._parser.get_status_code()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is one by shape only

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(LoadError(f"The server closed the connection: {exc or 'no reason given'}."))

    def data_received(self, data: bytes) -> None:
        if self._parser is not None:
            self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._on_body(body)

    def on_message_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class _FrameCounter:
    """Counts the frames that carry a token, however the network cut them."""

    def __init__(self, times: StreamTimes) -> None:
        self.rest = b""
        self.started = 0.0
        self._times = times

    def feed(self, data: bytes) -> None:
        now = time.perf_counter() - self.started
        times = self._times
        if not times.first_byte_s:
            times.first_byte_s = now
        whole, end, rest = (self.rest + data).rpartition(b"\n\n")
        self.rest = rest
        if not end:
            return
        times.tokens += [now] * whole.count(TOKEN_MARK)
        if b'"stop_reason":"end_turn"' in whole:
            times.ended_well = True


class Target:
    """The server under load: its address and what every request to it carries."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname:
            raise LoadError(f"The benchmark needs an address like http://127.0.0.1:8283, not {base_url!r}.")
        self._host, self._port = parts.hostname, parts.port or 80
        self._headers = f"authorization: Bearer {key}\r\n".encode() if key else b""

    async def open(self) -> Connection:
        loop = asyncio.get_running_loop()
        host = f"{self._host}:{self._port}".encode()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(host, self._headers), self._host, self._port
            )
        except OSError as error:
            raise LoadError(f"No server answers at {host.decode()}: {error}.") from error
        return connection
