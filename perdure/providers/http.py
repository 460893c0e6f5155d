"""The one HTTP client of a server: pooled connections, timeouts, retries, failures as ProviderError.

Invariant: a call is tried again here only while nothing of an answer has been read; from a status 200 on, only who reads it
knows whether another attempt is right (`attempts.py`).
"""

import asyncio
import os
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from msgspec import Struct

from perdure import __version__
from perdure.core.errors import Invalid, ProviderError
from perdure.providers.failures import status_error
from perdure.providers.retries import Retries, retry_after_s, seconds_before

if TYPE_CHECKING:
    from aiohttp import ClientConnectorError, ClientProxyConnectionError, ClientResponse, ClientSession
    from yarl import URL

KEPT_URLS = 64
MAX_ERROR_BYTES = 65_536
OK = (200, 201)
MAX_BODY_BYTES = 256 * 1024 * 1024
DRAIN_S = 2.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Timeouts(Struct, frozen=True):
    """Seconds: to connect, until the answer's first byte, and between two reads after it."""

    connect_s: float = 10.0
    first_byte_s: float = 600.0
    between_s: float = 180.0


class Endpoint:
    """Where a provider is and how it is asked: made once, used for every call.

    `base_url` has no trailing slash. Per-path URLs and the headers are kept encoded.
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
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"The base URL of provider '{name}' is {base_url!r}: give http:// or https:// and a host.")
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.timeouts = timeouts
        self.retries = retries
        self.proxy = _proxy_for(parts.scheme, parts.hostname)
        self.headers: dict[str, str] = {"User-Agent": f"perdure/{__version__}", **(headers or {})}
        self.json_headers: dict[str, str] = {"Content-Type": "application/json", **self.headers}
        self._urls: dict[str, URL] = {}

    def url(self, path: str) -> "URL":
        found = self._urls.get(path)
        if found is None:
            from yarl import URL

            found = URL(self.base_url + path, encoded="%" in path)
            if len(self._urls) < KEPT_URLS:  # some paths have an id in them
                self._urls[path] = found
        return found


def _proxy_for(scheme: str, host: str) -> str | None:
    """The proxy of the environment for this host. A loopback address is never asked through a proxy."""
    if host in LOOPBACK:
        return None
    proxy = urllib.request.getproxies().get(scheme)
    return None if proxy is None or urllib.request.proxy_bypass(host) else proxy


class Http:
    """Shared by every provider of a server. The session is opened on first use, once per event loop.

    `refused`: told of each attempt that failed, by the endpoint's name, before the wait for the next one.
    """

    def __init__(self, *, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep) -> None:
        self._session: ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sleep = sleep
        self.refused: Callable[[str, ProviderError], None] | None = None
        self._draining: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in list(self._draining):
            task.cancel()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def session(self) -> "ClientSession":
        session = self._session
        if session is None or session.closed or self._loop is not asyncio.get_running_loop():
            session = self._session = _open_session()
            self._loop = asyncio.get_running_loop()
        return session

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

    def drain(self, response: "ClientResponse") -> None:
        """Read what is left of an answer, as long as that is soon over."""
        task = asyncio.get_running_loop().create_task(_drain(response))
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
        url = endpoint.url(path)
        headers = endpoint.headers if body is None else endpoint.json_headers
        try:
            response = await self.session().request(
                method,
                url,
                data=body,
                headers={**headers, **more} if more else headers,
                proxy=endpoint.proxy,
                allow_redirects=follow,
                timeout=_client_timeout(endpoint.timeouts),
            )
        except Exception as cause:
            raise _transport_error(endpoint, path, cause) from cause
        answer = Answer(self, endpoint, path, response, body)
        if response.status in OK:
            return answer
        try:
            text = await answer.read_all(limit=MAX_ERROR_BYTES)
        except ProviderError as cut:
            text = f"(its body could not be read: {cut.message})".encode()
        finally:
            answer.close()
        headers = response.headers
        raise status_error(
            endpoint.name,
            str(url),
            response.status,
            text,
            retry_after_s=retry_after_s(headers),
            content_type=headers.get("Content-Type", ""),
        )


class Answer:
    """A good answer under way. Leaving the block, or `close`, before its end drops the connection, and the engine stops.

    A ProviderError that leaves the block knows what was `sent`.
    """

    __slots__ = ("_between_set", "_endpoint", "_http", "_left", "_path", "_read", "_response", "_sent")

    def __init__(
        self, http: Http, endpoint: Endpoint, path: str, response: "ClientResponse", sent: bytes | None
    ) -> None:
        self._http = http
        self._left = False
        self._endpoint = endpoint
        self._path = path
        self._response = response
        self._read = response.content.readany
        self._between_set = False
        self._sent = sent

    @property
    def content_type(self) -> str:
        return self._response.headers.get("Content-Type", "")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ProviderError):
            error.sent = self._sent
        self.close()

    def close(self) -> None:
        if not self._left:
            self._response.close()  # gives the connection back instead when the whole body was read

    def leave(self) -> None:
        """The rest is not wanted: it is read in the background, so that the connection can be used again."""
        if not self._response.content.at_eof():
            self._left = True
            self._http.drain(self._response)

    async def read(self) -> bytes:
        """What has arrived, as soon as something has; b"" at the end."""
        try:
            data = await self._read()
        except Exception as cause:
            raise _transport_error(self._endpoint, self._path, cause, reading=True) from cause
        if not self._between_set:
            self._between_set = True
            connection = self._response.connection
            protocol = connection.protocol if connection is not None else None
            if protocol is not None:
                protocol.read_timeout = self._endpoint.timeouts.between_s
        return data

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


async def _drain(response: "ClientResponse") -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            while await response.content.readany():
                pass
    except Exception:
        pass  # nobody waits for it: the connection is dropped instead of kept
    finally:
        response.close()


def _open_session() -> "ClientSession":
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=55.0, ttl_dns_cache=60)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        auto_decompress=True,
        read_bufsize=1 << 18,
    )


_timeouts: dict[Timeouts, Any] = {}


def _client_timeout(timeouts: Timeouts) -> Any:
    found = _timeouts.get(timeouts)
    if found is None:
        import aiohttp

        found = _timeouts[timeouts] = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=timeouts.connect_s, sock_read=timeouts.first_byte_s
        )
    return found


def _transport_error(endpoint: Endpoint, path: str, cause: Exception, *, reading: bool = False) -> ProviderError:
    """What went wrong between us and the endpoint, and what to check."""
    import aiohttp

    name, where = endpoint.name, endpoint.base_url + path
    if isinstance(cause, TimeoutError):
        if isinstance(cause, aiohttp.ConnectionTimeoutError):
            what = f"no connection within {endpoint.timeouts.connect_s:g} s"
            return _timed_out(endpoint, path, what, retryable=True)
        limit_s = endpoint.timeouts.between_s if reading else endpoint.timeouts.first_byte_s
        return _timed_out(endpoint, path, f"nothing arrived for {limit_s:g} s", retryable=not reading)
    if isinstance(cause, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        check = "Check the certificate, or http:// against https:// in the base URL."
        return ProviderError(f"No secure connection to {name} at {where}: {cause}. {check}", kind="llm_connection")
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        message = f"The host of {name} was not found ({where}): {cause}. Check the base URL."
        return ProviderError(message, kind="llm_connection", retryable=True)
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ClientProxyConnectionError):
        message = f"Cannot connect to {name} at {where}: {_reason(cause)}. Is it running, and is the base URL right?"
        return ProviderError(message, kind="llm_connection", retryable=True)
    if reading:
        message = f"The connection to {name} broke in the middle of its answer ({where}): {_words(cause)}."
        return ProviderError(message, kind="llm_connection", retryable=True)
    if isinstance(cause, aiohttp.ClientError | OSError):
        message = f"{name} closed the connection without an answer ({where}): {_words(cause)}."
        return ProviderError(message, kind="llm_connection", retryable=True)
    return ProviderError(f"Calling {name} at {where} failed: {_words(cause)}.")


def _timed_out(endpoint: Endpoint, path: str, what: str, *, retryable: bool = False) -> ProviderError:
    message = f"{endpoint.name} timed out at {endpoint.base_url + path}: {what}."
    return ProviderError(message, kind="llm_timeout", retryable=retryable)


def _reason(cause: "ClientConnectorError | ClientProxyConnectionError") -> str:
    """In the system's own words, which the event loops do not agree on."""
    number = cause.os_error.errno
    return os.strerror(number).lower() if number is not None and number > 0 else str(cause)


def _words(cause: Exception) -> str:
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
