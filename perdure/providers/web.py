"""GET and POST of addresses that users and models give, which could be anything.

Invariant: no byte goes to an address that is not public, whatever the URL, its redirects or the DNS say, unless private ones
are allowed; and nothing is read beyond the limits of size and time.
"""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from perdure import __version__
from perdure.core.errors import Invalid
from perdure.providers.http_exchange import Exchange, HttpFailure
from perdure.providers.http_head import MOVED, head_of, split_url
from perdure.providers.http_pool import NoHost, Pool, login_in

REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Limits(Struct, frozen=True):
    """`timeout_s` bounds one attempt, redirects and body included."""

    max_bytes: int = 20 * 1024 * 1024
    timeout_s: float = 5.0
    attempts: int = 2


class _Private(Exception):
    """The name leads to an address that is not public."""


class _Retry(Exception):
    """It may work the next time; the text says what happened."""


def is_public(address: str) -> bool:
    """False for loopback, private, link-local, reserved and multicast addresses, also inside an IPv6 one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class Web:
    """One client for all such addresses; its connections are used once, and never shared with the providers'. It uses no proxy:
    that would be the one to look names up."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self.allow_private = allow_private
        self._pool: Pool | None = None

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
            await asyncio.sleep(0)  # the transports close with the loop's next turn

    async def get(self, url: str, limits: Limits = Limits()) -> bytes:
        """The body of a 200. Invalid says what was wrong with the address or its answer."""
        why = ""
        for _ in range(limits.attempts):
            try:
                async with asyncio.timeout(limits.timeout_s):
                    return await self._follow(url, limits)
            except TimeoutError:
                why = f"no whole answer within {limits.timeout_s:g} s"
            except _Retry as error:
                why = str(error)
        raise Invalid(f"{shown(url)} could not be fetched: {why}")

    async def post(self, url: str, body: bytes, headers: dict[str, str], *, timeout_s: float = 10.0) -> int:
        """Send, once, and answer the status; redirects are not followed. Invalid if there was no answer."""
        return (await self.exchange(url, body, headers, Limits(max_bytes=0, timeout_s=timeout_s)))[0]

    async def exchange(
        self, url: str, body: bytes, headers: dict[str, str], limits: Limits = Limits()
    ) -> tuple[int, bytes]:
        """POST once: the status and the body, up to the limit. Invalid if there was no answer."""
        timeout_s = limits.timeout_s
        self._check(url)
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await self._ask("POST", url, headers, body, limits)
                try:
                    return exchange.status, await _read(exchange, limits.max_bytes)
                finally:
                    exchange.close()
        except TimeoutError as error:
            raise Invalid(f"{shown(url)} did not answer within {timeout_s:g} s") from error
        except _Private as error:
            raise _refusal(url) from error
        except NoHost as error:
            raise Invalid(f"{shown(url)}: its host was not found ({error})") from error
        except HttpFailure as error:
            raise Invalid(f"{shown(url)}: {error}") from error

    async def _follow(self, url: str, limits: Limits) -> bytes:
        for _ in range(REDIRECTS + 1):
            self._check(url)
            found = await self._once(url, limits)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise Invalid(f"{shown(url)} could not be fetched: more than {REDIRECTS} redirects")

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise Invalid(f"{shown(url)} is not a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise Invalid(f"{shown(url)} cannot be fetched: use an http or https URL")
        try:
            public = is_public(host)
        except ValueError:
            return  # a name: its addresses are checked where it is resolved
        if not public and not self.allow_private:
            raise _refusal(url)

    async def _once(self, url: str, limits: Limits) -> bytes | str:
        """The body, or where the answer sends us."""
        try:
            exchange = await self._ask("GET", url, {}, None, limits)
            try:
                status, location = exchange.status, exchange.headers.get("Location")
                if status in MOVED and location:
                    return location
                if status >= 500 or status == 429:
                    raise _Retry(f"HTTP {status}")
                if status != 200:
                    raise Invalid(f"{shown(url)} could not be fetched: HTTP {status}")
                body = await _read(exchange, limits.max_bytes + 1)
            finally:
                exchange.close()
        except _Private as error:
            raise _refusal(url) from error
        except NoHost as error:
            raise _Retry(f"its host was not found ({error})") from error
        except HttpFailure as error:
            raise _Retry(str(error)) from error
        if len(body) > limits.max_bytes:
            raise _too_big(url, limits)
        return body

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, limits: Limits
    ) -> Exchange:
        try:
            origin, target = split_url(url)
        except ValueError as error:
            raise Invalid(f"{shown(url)} is not a URL") from error
        origin = origin._replace(proxy=None)
        told = {"User-Agent": f"perdure/{__version__}", "Accept": "*/*", "Connection": "close", **headers}
        if (login := login_in(url)) is not None:
            told["Authorization"] = login
        if body is not None:
            told["Content-Length"] = str(len(body))
        if self._pool is None:
            self._pool = Pool(check=self._check_addresses, keep=False)
        head = head_of(method, origin, target, told) + b"\r\n"
        limit_s = limits.timeout_s
        return await self._pool.exchange(origin, head, body, connect_s=limit_s, first_byte_s=limit_s, between_s=limit_s)

    def _check_addresses(self, host: str, addresses: Sequence[str]) -> None:
        """At the moment of connecting: what the DNS said earlier does not count."""
        if not self.allow_private and any(not is_public(address) for address in addresses):
            raise _Private(f"{host} is not a public address")


async def _read(exchange: Exchange, limit: int) -> bytes:
    """The body's beginning, up to the limit."""
    body = bytearray()
    while len(body) < limit and (data := await exchange.read()):
        body += data
    return bytes(body[:limit])


def shown(url: str) -> str:
    """A URL as an error may repeat it: without what only its owner should see, and short."""
    try:
        parts = urlsplit(url)
        host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname or "")
        text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else url
    except ValueError:
        text = url
    return text if len(text) <= 120 else text[:117] + "..."


def _refusal(url: str) -> Invalid:
    return Invalid(
        f"{shown(url)} is not a public address, and private ones are not called. Allow them with "
        "PERDURE_ALLOW_PRIVATE_URLS=true, or send content itself instead of its address."
    )


def _too_big(url: str, limits: Limits) -> Invalid:
    return Invalid(f"{shown(url)} is larger than {limits.max_bytes // (1024 * 1024)} MB")
