"""GET and POST of addresses that users and models give, which could be anything.

Invariant: no byte goes to an address that is not public, whatever the URL, its redirects or the DNS say, unless private ones
are allowed; and nothing is read beyond the limits of size and time.
"""

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from perdure import __version__
from perdure.core.errors import Invalid

if TYPE_CHECKING:
    from aiohttp import ClientSession

REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Limits(Struct, frozen=True):
    """`timeout_s` bounds one attempt, redirects and body included."""

    max_bytes: int = 20 * 1024 * 1024
    timeout_s: float = 5.0
    attempts: int = 2


class _Private(OSError):
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
    """One client for all such addresses, opened on first use; its connections are never shared with the providers'."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self.allow_private = allow_private
        self._session: ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

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
        import aiohttp

        timeout_s = limits.timeout_s

        self._check(url)
        try:
            async with asyncio.timeout(timeout_s):
                async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as response:
                    body = b"" if limits.max_bytes == 0 else await response.content.read(limits.max_bytes)
                    return response.status, body
        except TimeoutError as error:
            raise Invalid(f"{shown(url)} did not answer within {timeout_s:g} s") from error
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, _Private):
                raise _refusal(url) from error
            raise Invalid(f"{shown(url)}: its host was not found ({error.os_error})") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Invalid(f"{shown(url)}: {type(error).__name__}: {error}") from error

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
        import aiohttp

        try:
            async with self._open().get(url, allow_redirects=False) as response:
                status, location = response.status, response.headers.get("Location")
                if status in (301, 302, 303, 307, 308) and location:
                    return location
                if status >= 500 or status == 429:
                    raise _Retry(f"HTTP {status}")
                if status != 200:
                    raise Invalid(f"{shown(url)} could not be fetched: HTTP {status}")
                if (response.content_length or 0) > limits.max_bytes:
                    raise _too_big(url, limits)
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > limits.max_bytes:
                        raise _too_big(url, limits)
                return bytes(body)
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, _Private):
                raise _refusal(url) from error
            raise _Retry(f"its host was not found ({error.os_error})") from error
        except aiohttp.InvalidURL as error:
            raise Invalid(f"{shown(url)} is not a URL") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Retry(f"{type(error).__name__}: {error}") from error

    def _open(self) -> "ClientSession":
        if self._session is None:
            import aiohttp

            connector = aiohttp.TCPConnector(resolver=_resolver(self.allow_private), limit=20, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"perdure/{__version__}"},
            )
        return self._session


def shown(url: str) -> str:
    """A URL as an error may repeat it: without what only its owner should see, and short."""
    try:
        parts = urlsplit(url)
        host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname or "")
        text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else url
    except ValueError:
        text = url
    return text if len(text) <= 120 else text[:117] + "..."


def _resolver(allow_private: bool) -> Any:
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class PublicResolver(AbstractResolver):
        """Checks at the moment of connecting: what the DNS said earlier does not count."""

        def __init__(self) -> None:
            self._inner = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await self._inner.resolve(host, port, family)
            if not allow_private and any(not is_public(each["host"]) for each in found):
                raise _Private(f"{host} is not a public address")
            return found

        async def close(self) -> None:
            await self._inner.close()

    return PublicResolver()


def _refusal(url: str) -> Invalid:
    return Invalid(
        f"{shown(url)} is not a public address, and private ones are not called. Allow them with "
        "PERDURE_ALLOW_PRIVATE_URLS=true, or send content itself instead of its address."
    )


def _too_big(url: str, limits: Limits) -> Invalid:
    return Invalid(f"{shown(url)} is larger than {limits.max_bytes // (1024 * 1024)} MB")
