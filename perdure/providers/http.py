"""The one HTTP client of a server: pooled connections, timeouts, retries, failures as ProviderError.

Invariant: a call is tried again here only while nothing of an answer has been read; from a status 200 on, only who reads it
knows whether another attempt is right (`attempts.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self
from urllib.parse import quote, urljoin

from msgspec import Struct

from perdure import __version__
from perdure.core.errors import Invalid, ProviderError
from perdure.providers.failures import status_error
from perdure.providers.http_exchange import Exchange, HttpFailure, Silent
from perdure.providers.http_head import MOVED, URL_CHARACTERS, head_of, split_url, without_login
from perdure.providers.http_pool import (
    ConnectTimeout,
    NoConnection,
    NoHost,
    NotSecure,
    Origin,
    Pool,
    login_in,
)
from perdure.providers.retries import Retries, retry_after_s, seconds_before

KEPT_HEADS = 64
MAX_ERROR_BYTES = 65_536
OK = (200, 201)
MAX_REDIRECTS = 10
MAX_BODY_BYTES = 256 * 1024 * 1024
DRAIN_S = 2.0


class Timeouts(Struct, frozen=True):
    """Seconds: to connect, until the answer's first byte, and between two reads after it."""

    connect_s: float = 10.0
    first_byte_s: float = 600.0
    between_s: float = 180.0


class Endpoint:
    """Where a provider is and how it is asked: made once, used for every call.

    `base_url` has no trailing slash, and no name and password: those become a header, before any other of that name. What is sent
    before a body is kept encoded, per path.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts = Timeouts(),
        retries: Retries = Retries(),
    ) -> None:
        self.name = name
        self.base_url = without_login(base_url).rstrip("/")
        self.timeouts = timeouts
        self.retries = retries
        try:
            self.origin, self._base_path = split_url(self.base_url)
        except ValueError as error:
            raise Invalid(
                f"The base URL of provider '{name}' is {self.base_url!r}: give http:// or https:// and a host."
            ) from error
        self.headers: dict[str, str] = {"User-Agent": f"perdure/{__version__}", **(headers or {})}
        if (login := login_in(base_url)) is not None:
            kept = {key: value for key, value in self.headers.items() if key.lower() != "authorization"}
            self.headers = {**kept, "Authorization": login}
        self._heads: dict[tuple[str, str, bool], bytes] = {}

    @property
    def proxy(self) -> str | None:
        return self.origin.proxy

    def url(self, path: str) -> str:
        """As it is sent."""
        return self.base_url + quote(path, safe=URL_CHARACTERS)

    def head(self, method: str, path: str, length: int | None, more: Mapping[str, str] | None) -> bytes:
        """The request line and the headers. `length`: of a body in JSON. Invalid if a header cannot be sent."""
        key = (method, path, length is not None)
        start = self._heads.get(key) if not more else None
        if start is None:
            kind = {} if length is None else {"Content-Type": "application/json"}
            headers = {**kind, **self.headers, **(more or {})}
            start = head_of(method, self.origin, self._base_path + path, headers)
            if not more and len(self._heads) < KEPT_HEADS:  # some paths have an id in them
                self._heads[key] = start
        return start + b"\r\n" if length is None else b"%bContent-Length: %d\r\n\r\n" % (start, length)


class Http:
    """Shared by every provider of a server. Connections are made on first use, per event loop.

    `refused`: told of each attempt that failed, by the endpoint's name, before the wait for the next one.
    """

    def __init__(self, *, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep) -> None:
        self._pool: Pool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sleep = sleep
        self.refused: Callable[[str, ProviderError], None] | None = None
        self._draining: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in list(self._draining):
            task.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
            await asyncio.sleep(0)  # the transports close with the loop's next turn

    def pool(self) -> Pool:
        pool = self._pool
        if pool is None or self._loop is not asyncio.get_running_loop():
            pool = self._pool = Pool()
            self._loop = asyncio.get_running_loop()
        return pool

    async def open(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes | None = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
        follow: bool = False,
    ) -> "Answer":
        """Send and wait for a 200 or 201. Raises ProviderError for anything else, after the retries it is worth.

        `headers`: of this call, beside the endpoint's. `retry`: not where the caller asks again by itself (`attempts.py`).
        `follow`: go where it points to, without a bearer's token if that is another server.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(endpoint, path, body, method, headers, follow)
            except ProviderError as error:
                error.sent = body
                if self.refused is not None:
                    self.refused(endpoint.name, error)
                if not retry or not await self.pause(error, attempt, endpoint.retries):
                    raise

    async def pause(self, error: ProviderError, attempt: int, retries: Retries) -> bool:
        """Whether another attempt is worth it after the `attempt`th failed so; if it is, the wait before it is over."""
        wait_s = seconds_before(error, attempt, retries)
        if attempt >= retries.attempts or wait_s is None:
            return False
        await self._sleep(wait_s)
        return True

    async def call(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes | None = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
        timeout_s: float | None = None,
    ) -> bytes:
        """The whole body of a good answer. `timeout_s` bounds everything, retries included."""
        try:
            async with asyncio.timeout(timeout_s):
                opened = self.open(endpoint, path, body, method=method, headers=headers, retry=retry)
                async with await opened as answer:
                    return await answer.read_all()
        except TimeoutError as cause:
            raise _timed_out(endpoint, path, f"no answer within {timeout_s:g} s") from cause

    def drain(self, exchange: Exchange) -> None:
        """Read what is left of an answer, as long as that is soon over."""
        task = asyncio.get_running_loop().create_task(_drain(exchange))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _once(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes | None,
        method: str,
        more: Mapping[str, str] | None,
        follow: bool,
    ) -> "Answer":
        timeouts = endpoint.timeouts
        head = endpoint.head(method, path, None if body is None else len(body), more)
        try:
            exchange = await self._exchange(endpoint.origin, head, body, timeouts)
            if follow and exchange.status in MOVED:
                exchange = await self._follow(endpoint, path, exchange, {**endpoint.headers, **(more or {})}, timeouts)
        except HttpFailure as cause:
            raise _transport_error(endpoint, path, cause) from cause
        answer = Answer(self, endpoint, path, exchange, body)
        if exchange.status in OK:
            return answer
        try:
            text = await answer.read_all(limit=MAX_ERROR_BYTES)
        except ProviderError as cut:
            text = f"(its body could not be read: {cut.message})".encode()
        finally:
            answer.close()
        headers = exchange.headers
        raise status_error(
            endpoint.name,
            endpoint.url(path),
            exchange.status,
            text,
            retry_after_s=retry_after_s(headers),
            content_type=headers.get("Content-Type", ""),
        )

    async def _exchange(self, origin: Origin, head: bytes, body: bytes | None, timeouts: Timeouts) -> Exchange:
        return await self.pool().exchange(
            origin,
            head,
            body,
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_byte_s,
            between_s=timeouts.between_s,
        )

    async def _follow(
        self, endpoint: Endpoint, path: str, exchange: Exchange, headers: dict[str, str], timeouts: Timeouts
    ) -> Exchange:
        """Where a GET is sent on to. Another server is not told who asks."""
        url, origin = endpoint.base_url + path, endpoint.origin
        for _ in range(MAX_REDIRECTS):
            location = exchange.headers.get("Location")
            if exchange.status not in MOVED or not location:
                return exchange
            exchange.close()
            url = urljoin(url, location)
            try:
                there, target = split_url(url)
            except ValueError as error:
                raise NoConnection(f"it points to {location!r}, which is not an http or https URL") from error
            if there != origin:
                headers = {"User-Agent": headers["User-Agent"]}
            origin = there
            exchange = await self._exchange(there, head_of("GET", there, target, headers) + b"\r\n", None, timeouts)
        raise NoConnection(f"it points from one address to the next, more than {MAX_REDIRECTS} times")


class Answer:
    """A good answer under way. Leaving the block, or `close`, before its end drops the connection, and the engine stops.

    A ProviderError that leaves the block knows what was `sent`.
    """

    __slots__ = ("_endpoint", "_exchange", "_http", "_left", "_path", "_sent")

    def __init__(self, http: Http, endpoint: Endpoint, path: str, exchange: Exchange, sent: bytes | None) -> None:
        self._http = http
        self._left = False
        self._endpoint = endpoint
        self._path = path
        self._exchange = exchange
        self._sent = sent

    @property
    def content_type(self) -> str:
        return self._exchange.headers.get("Content-Type", "")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ProviderError):
            error.sent = self._sent
        self.close()

    def close(self) -> None:
        if not self._left:
            self._exchange.close()  # gives the connection back if the whole answer has come

    def leave(self) -> None:
        """The rest is not wanted: it is read in the background, so that the connection can be used again."""
        if not self._exchange.complete:
            self._left = True
            self._http.drain(self._exchange)

    async def read(self) -> bytes:
        """What has arrived, as soon as something has; b"" at the end."""
        try:
            return await self._exchange.read()
        except HttpFailure as cause:
            raise _transport_error(self._endpoint, self._path, cause, reading=True) from cause

    async def read_all(self, limit: int | None = None) -> bytes:
        """The rest of the body. `limit`: that many bytes are enough; without it MAX_BODY_BYTES is the most."""
        pieces: list[bytes] = []
        size = 0
        while data := await self.read():
            pieces.append(data)
            size += len(data)
            if limit is not None and size >= limit:
                break
            if size > MAX_BODY_BYTES:
                raise ProviderError(f"{self._endpoint.name} sent more than {MAX_BODY_BYTES} bytes in one answer.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _drain(exchange: Exchange) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            while await exchange.read():
                pass
    except (HttpFailure, TimeoutError):
        pass  # nobody waits for it: the connection is dropped instead of kept
    finally:
        exchange.close()


def _transport_error(endpoint: Endpoint, path: str, cause: HttpFailure, *, reading: bool = False) -> ProviderError:
    """What went wrong between us and the endpoint, and what to check."""
    name, where = endpoint.name, endpoint.base_url + path
    if isinstance(cause, ConnectTimeout):
        return _timed_out(endpoint, path, str(cause), retryable=True)
    if isinstance(cause, Silent):
        return _timed_out(endpoint, path, str(cause), retryable=not reading)
    if isinstance(cause, NotSecure):
        check = "Check the certificate, or http:// against https:// in the base URL."
        return ProviderError(f"No secure connection to {name} at {where}: {cause}. {check}", kind="llm_connection")
    if isinstance(cause, NoHost):
        message = f"The host of {name} was not found ({where}): {cause}. Check the base URL."
        return ProviderError(message, kind="llm_connection", retryable=True)
    if isinstance(cause, NoConnection):
        message = f"Cannot connect to {name} at {where}: {cause}. Is it running, and is the base URL right?"
        return ProviderError(message, kind="llm_connection", retryable=True)
    if reading:
        message = f"The connection to {name} broke in the middle of its answer ({where}): {cause}."
    else:
        message = f"{name} closed the connection without an answer ({where}): {cause}."
    return ProviderError(message, kind="llm_connection", retryable=True)


def _timed_out(endpoint: Endpoint, path: str, what: str, *, retryable: bool = False) -> ProviderError:
    message = f"{endpoint.name} timed out at {endpoint.base_url + path}: {what}."
    return ProviderError(message, kind="llm_timeout", retryable=retryable)
