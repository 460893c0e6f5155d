"""Connections to servers: resolved, secured, through a proxy where one is set, kept for the next exchange.

Invariant: a connection is given to one caller at a time; one that has lain idle for long is closed rather than used.
"""

import asyncio
import base64
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from perdure.providers.http_exchange import Connection, Exchange, HttpFailure

KEPT_S = 55.0
NAMES_KEPT_S = 60.0
HEAD_START_S = 0.25  # of an address before the next one is tried beside it, as RFC 8305 has it
MAX_PROXY_HEAD = 16_384

Address = tuple[Any, ...]
Check = Callable[[str, Sequence[str]], None]


class NoConnection(HttpFailure):
    """Nobody there takes connections."""


class NoHost(HttpFailure):
    """The name leads nowhere."""


class NotSecure(HttpFailure):
    """TLS could not be agreed upon."""


class ConnectTimeout(HttpFailure):
    """No connection within the time for it."""


class Origin(NamedTuple):
    """Who is talked to. `proxy`: the URL of the proxy on the way there, if any."""

    secure: bool
    host: str
    port: int
    proxy: str | None = None


class Pool:
    """All connections of one event loop. `check` is told a name and its addresses before any is connected to, and may raise.
    `keep`: whether connections, and what names lead to, are
    used again."""

    def __init__(self, *, check: Check | None = None, keep: bool = True) -> None:
        self._check = check
        self._keep = keep
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._names: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._tls: ssl.SSLContext | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(
        self,
        origin: Origin,
        head: bytes,
        body: bytes | None,
        *,
        connect_s: float,
        first_byte_s: float,
        between_s: float,
    ) -> Exchange:
        """Ask, and answer once the status and the headers are there. HttpFailure."""
        connection = await self.connection(origin, connect_s)
        exchange = connection.send(head, body, first_byte_s, between_s)
        try:
            await exchange.begin()
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def connection(self, origin: Origin, timeout_s: float) -> Connection:
        """One that is free, or a new one. HttpFailure says why there is none."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if not connection.closed:
                return connection
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect(origin)
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection within {timeout_s:g} s") from error

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._idle.clear()
        for connection in list(self._open):
            connection.drop()

    # -- connecting

    async def _connect(self, origin: Origin) -> Connection:
        def free(connection: Connection) -> None:
            self._free(origin, connection)

        connection = Connection(free, self._open.discard)
        try:
            if origin.proxy is None:
                await self._dial(connection, origin.host, origin.port, secure=origin.secure)
            else:
                await self._dial_through(connection, origin, origin.proxy)
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise NotSecure(str(error)) from error
        except socket.gaierror as error:
            raise NoHost(error.strerror or str(error)) from error
        except OSError as error:
            raise NoConnection(_reason(error)) from error
        self._open.add(connection)
        return connection

    async def _dial(self, connection: asyncio.BaseProtocol, host: str, port: int, *, secure: bool) -> Any:
        """The transport of a connection to the first of the host's addresses that answers."""
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {"ssl": self._context(), "server_hostname": host} if secure else {}
        try:
            sock = await _first(await self._addresses(host, port))
        except OSError:
            self._names.pop((host, port), None)  # it may have moved
            raise
        try:
            transport, _ = await loop.create_connection(lambda: connection, sock=sock, **tls)
        except BaseException:
            sock.close()
            raise
        return transport

    async def _dial_through(self, connection: Connection, origin: Origin, proxy: str) -> None:
        parts = urlsplit(proxy)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NoConnection(f"{parts.scheme or proxy!r} is no kind of proxy that is known: use http://host:port")
        host, secure = parts.hostname, parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        if not origin.secure:
            await self._dial(connection, host, port, secure=secure)
            return
        tunnel = _Tunnel()
        transport = await self._dial(tunnel, host, port, secure=secure)
        try:
            where = f"{_bracketed(origin.host)}:{origin.port}".encode()
            head = [b"CONNECT " + where + b" HTTP/1.1", b"Host: " + where, *proxy_headers(proxy), b"", b""]
            transport.write(b"\r\n".join(head))
            await tunnel.opened
            loop = asyncio.get_running_loop()
            upgraded = await loop.start_tls(transport, connection, self._context(), server_hostname=origin.host)
            assert upgraded is not None
            connection.connection_made(upgraded)
        except BaseException:
            transport.abort()
            raise

    async def _addresses(self, host: str, port: int) -> list[Address]:
        """(family, kind, protocol, socket address) of a host, one family after the other in turns."""
        loop = asyncio.get_running_loop()
        known = self._names.get((host, port))
        if known is not None and known[0] > loop.time():
            found = known[1]
        else:
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = _in_turns([(family, kind, protocol, where) for family, kind, protocol, _, where in infos])
            if self._keep:
                self._names[host, port] = (loop.time() + NAMES_KEPT_S, found)
        if self._check is not None:
            self._check(host, [str(where[0]) for *_, where in found])
        return found

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    # -- keeping

    def _free(self, origin: Origin, connection: Connection) -> None:
        if not self._keep:
            connection.drop()
            return
        connection.idle_since = connection.loop.time()
        self._idle.setdefault(origin, []).append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(KEPT_S, self._close_old)

    def _close_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEPT_S
        for origin, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= oldest:
                    connection.drop()
            kept = [connection for connection in idle if not connection.closed]
            if kept:
                idle[:] = kept
            else:
                del self._idle[origin]
        if self._idle:
            self._sweep = loop.call_later(KEPT_S / 4, self._close_old)


class _Tunnel(asyncio.Protocol):
    """`opened` is done once a proxy has let us through."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > MAX_PROXY_HEAD:
                self._fail("the proxy's answer is not HTTP")
            return
        status = self._head.split(b"\r\n", 1)[0].decode("latin-1")
        if len(words := status.split(" ", 2)) > 1 and words[1] == "200":
            if not self.opened.done():
                self.opened.set_result(None)
        else:
            self._fail(f"the proxy refused: {status}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the proxy closed the connection")

    def _fail(self, why: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(NoConnection(why))


def proxy_headers(proxy: str) -> list[bytes]:
    """What a proxy wants to know of who asks."""
    login = login_in(proxy)
    return [] if login is None else [f"Proxy-Authorization: {login}".encode()]


def login_in(url: str) -> str | None:
    """The name and password of a URL, as a header says them."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(who.encode()).decode()}"


def host_header(origin: Origin) -> str:
    host = _bracketed(origin.host)
    return host if origin.port == (443 if origin.secure else 80) else f"{host}:{origin.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _in_turns(addresses: list[Address]) -> list[Address]:
    families = list(dict.fromkeys(address[0] for address in addresses))
    groups = [[address for address in addresses if address[0] == family] for family in families]
    return [address for turn in zip_longest(*groups) for address in turn if address is not None]


async def _first(addresses: Sequence[Address]) -> socket.socket:
    """A socket connected to the first address that answers; each has a head start before the next. OSError if none does."""
    if len(addresses) == 1:
        return await _connected(addresses[0])
    tasks: set[asyncio.Task[socket.socket]] = set()
    first_error: OSError | None = None
    waiting = list(addresses)
    try:
        while waiting or tasks:
            if waiting:
                tasks.add(asyncio.create_task(_connected(waiting.pop(0))))
            done, tasks = await asyncio.wait(
                tasks, timeout=HEAD_START_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                first_error = first_error or error
    finally:
        for task in tasks:
            task.cancel()
            task.add_done_callback(_closed)
    raise first_error or OSError("it has no address")


def _closed(task: "asyncio.Task[socket.socket]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connected(address: Address) -> socket.socket:
    family, kind, protocol, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError) -> str:
    """In the system's own words, which the event loops do not agree on."""
    return os.strerror(error.errno).lower() if error.errno is not None and error.errno > 0 else str(error)
