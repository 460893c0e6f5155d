"""One HTTP/1.1 connection to a server, and one request with its answer on it.

Invariants: a connection carries one exchange at a time, and another only after an answer that came whole. What arrives is handed
out as it arrives; when its reader is slow the connection is paused.
"""

import asyncio
import zlib
from collections.abc import Callable
from typing import Any, Final

import httptools

HIGH_WATER = 1 << 20
MAX_HEADERS = 500
BURST = 1 << 14  # bytes: an answer that begins with as many takes milliseconds to work through
BEGINNING = 1 << 11
TURNS = 3  # of the event loop, within which what came of the beginning is on its way
SMALL_BODY = 1 << 16
MAX_INFLATED = 1 << 25  # of what came in one read, at most 256 KB: no honest body grows like that
INFLATE_ANY: Final = 32 + zlib.MAX_WBITS  # gzip or zlib, whichever it begins with


class HttpFailure(Exception):
    """What keeps an exchange from its answer."""


class Broken(HttpFailure):
    """The connection ended, or what came is not HTTP."""


class Silent(HttpFailure):
    """Nothing came for as long as may be waited."""


class Headers:
    """An answer's headers as they came; looked up without regard to case."""

    __slots__ = ("_raw",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def get(self, name: str, default: Any = None) -> Any:
        wanted = name.lower().encode()
        for key, value in self._raw:
            if key.lower() == wanted:
                return value.decode("latin-1").strip()
        return default


class Exchange:
    """A request under way and its answer: `begin`, then `read` until it gives b"" or `close`.

    The callbacks `on_...` are the parser's.
    """

    __slots__ = (
        "_connection",
        "_decode",
        "_failure",
        "_parser",
        "_pieces",
        "_raw_headers",
        "_rests",
        "_size",
        "_waiter",
        "between_s",
        "complete",
        "headers",
        "keep",
        "silence_s",
        "status",
        "waiting_since",
    )

    def __init__(self, connection: "Connection", first_byte_s: float, between_s: float) -> None:
        self._connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._rests: bool | None = None  # whether the rest of a burst is still to be read; None before the first read
        self._waiter: asyncio.Future[None] | None = None
        self._failure: HttpFailure | None = None
        self._decode: Callable[[bytes], bytes] | None = None
        self.silence_s = first_byte_s  # for how long nothing may come: from the body's first byte on, `between_s`
        self.between_s = between_s
        self.waiting_since: float | None = None
        self.status = 0
        self.headers = Headers(self._raw_headers)
        self.keep = False
        self.complete = False

    async def begin(self) -> None:
        """Returns once the status and the headers are there."""
        while not self.status:
            await self._wait()

    async def read(self) -> bytes:
        """What has arrived of the body, as soon as something has; b"" at its end.

        Where much of it arrives at once, its beginning comes first, so that it can be shown before the rest is worked through.
        """
        if self._rests:
            self._rests = False
            for _ in range(TURNS):
                await asyncio.sleep(0)
        while not self._pieces:
            if self.complete:
                return b""
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._rests is None:
            self._rests = len(data) > BURST
            if self._rests:
                pieces.append(data[BEGINNING:])
                return data[:BEGINNING]
        if self._size > HIGH_WATER and self._connection.exchange is self:
            self._connection.resume()
        self._size = 0
        return data

    def close(self) -> None:
        """The rest is not wanted. A connection whose answer is not whole is dropped."""
        self._connection.end(self)

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        connection = self._connection
        self._waiter = connection.loop.create_future()
        self.waiting_since = connection.loop.time()
        connection.watch(self.silence_s)
        try:
            await self._waiter
        finally:
            self._waiter = self.waiting_since = None
        if self._failure is not None and not self._pieces:
            raise self._failure

    def fail(self, failure: HttpFailure) -> None:
        if not self.complete and self._failure is None:
            self._failure = failure
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._size > HIGH_WATER:
            self._connection.pause()
        if self._pieces or self.complete or self.status:
            self._wake()

    def ended(self) -> bool:
        """The connection's end is the answer's too if nothing else was to say where that is."""
        if not self.status or self.complete:
            return self.complete
        if self.headers.get("transfer-encoding") is None and self.headers.get("content-length") is None:
            self.complete = True
            self._wake()
        return self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw_headers.append((name, value))
        if len(self._raw_headers) > MAX_HEADERS:
            raise Broken(f"it sent more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an answer is still to come
            self._raw_headers.clear()
            return
        self.status = status
        self.keep = self._parser.should_keep_alive()
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._decode = _inflating()
        elif encoding != "identity":
            self._decode = _refusing(encoding)

    def on_body(self, data: bytes) -> None:
        self.silence_s = self.between_s
        if self._decode is not None:
            data = self._decode(data)
            if not data:
                return
        self._pieces.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True


def _refusing(encoding: str) -> Callable[[bytes], bytes]:
    def refuse(_: bytes) -> bytes:
        raise Broken(f"its body is encoded as {encoding!r}, which was not asked for")

    return refuse


def _inflating() -> Callable[[bytes], bytes]:
    """Of gzip or zlib; of bare deflate, which some servers call deflate, too. Broken if it is none of them, or a bomb."""
    inflater: Any = None

    def decode(data: bytes) -> bytes:
        nonlocal inflater
        try:
            if inflater is None:
                inflater = zlib.decompressobj(INFLATE_ANY)
                try:
                    found = inflater.decompress(data, MAX_INFLATED)
                except zlib.error:
                    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                    found = inflater.decompress(data, MAX_INFLATED)
            else:
                found = inflater.decompress(data, MAX_INFLATED)
        except zlib.error as error:
            raise Broken(f"its body cannot be decompressed: {error}") from error
        if inflater.unconsumed_tail:
            raise Broken(f"{len(data)} bytes of its body decompress to more than {MAX_INFLATED}")
        return found

    return decode


class Connection(asyncio.Protocol):
    """`on_free`: told when it can carry another exchange. `on_lost`: when it has ended."""

    def __init__(self, on_free: Callable[["Connection"], None], on_lost: Callable[["Connection"], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.exchange: Exchange | None = None
        self.closed = False
        self.idle_since = 0.0
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._paused = False

    def send(self, head: bytes, body: bytes | None, first_byte_s: float, between_s: float) -> Exchange:
        assert self.exchange is None
        exchange = self.exchange = Exchange(self, first_byte_s, between_s)
        if body is None:
            self._transport.write(head)
        elif len(body) <= SMALL_BODY:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return exchange

    def end(self, exchange: Exchange) -> None:
        """Done with its exchange: free if the answer came whole."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        if exchange.complete and exchange.keep and not self.closed and not self._paused:
            self._on_free(self)
        else:
            self.drop()

    def drop(self) -> None:
        self.closed = True
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    # -- the transport's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None or exchange.complete:
            self.drop()  # more than its answer: whatever that is, it is not the next one's
            return
        try:
            exchange.feed(data)
        except Broken as failure:
            exchange.fail(failure)
            self.drop()
        except Exception as error:  # the parser's own, whatever it could not read
            cause = error.__context__ if isinstance(error.__context__, Broken) else None
            exchange.fail(cause or Broken(f"what it sent is not HTTP/1.1: {error or type(error).__name__}"))
            self.drop()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._stop_timer()
        exchange = self.exchange
        if exchange is not None and not exchange.ended():
            exchange.fail(Broken(str(exc) if exc is not None and str(exc) else "the connection was closed"))
        self._on_lost(self)

    def pause(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.closed:
            self._paused = False
            self._transport.resume_reading()

    # -- silence

    def watch(self, limit_s: float) -> None:
        """See to it that silence of that length is noticed. One timer outlives many waits: it looks when it fires."""
        due = self.loop.time() + limit_s
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        exchange = self.exchange
        if exchange is None or exchange.waiting_since is None:
            return  # whoever waits next watches again
        silent_s = self.loop.time() - exchange.waiting_since
        if silent_s >= exchange.silence_s:
            exchange.fail(Silent(f"nothing arrived for {exchange.silence_s:g} s"))
            self.drop()
        else:
            self.watch(exchange.silence_s - silent_s)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
