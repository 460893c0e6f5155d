"""Addresses, and the lines a request begins with."""

import urllib.request
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from perdure.core.errors import Invalid
from perdure.providers.http_pool import Origin, host_header, proxy_headers

MOVED = (301, 302, 303, 307, 308)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"  # those that stay as they are


def without_login(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    where, slash, path = rest.partition("/")
    return f"{scheme}{mark}{where.rpartition('@')[2]}{slash}{path}" if mark else url


def split_url(url: str) -> tuple[Origin, str]:
    """Whom to talk to and what to ask for there. ValueError if it is not an http or https URL with a host."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url!r} is not an http or https URL")
    secure = parts.scheme == "https"
    if not host.isascii():
        host = host.encode("idna").decode()
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return Origin(secure, host, port or (443 if secure else 80), _proxy_for(parts.scheme, host)), path


def head_of(method: str, origin: Origin, path: str, headers: Mapping[str, str]) -> bytes:
    """A request's first lines, without the empty one. Invalid if a header's value cannot be in one."""
    target = quote(path, safe=URL_CHARACTERS) or "/"
    if not target.startswith("/"):
        target = f"/{target}"
    host = host_header(origin)
    lines: list[bytes] = []
    if origin.proxy is not None and not origin.secure:  # a proxy in the middle is told all of the address
        target = f"http://{host}{target}"
        lines = proxy_headers(origin.proxy)
    for name, value in {"Host": host, **headers}.items():
        if any(character in value or character in name for character in "\r\n\0"):
            raise Invalid(
                f"The header {name!r} holds a line break or a null byte, which no header may: {value[:20]!r}..."
            )
        lines.append(f"{name}: {value}".encode())
    return b"\r\n".join([f"{method} {target} HTTP/1.1".encode(), *lines, b""])


def _proxy_for(scheme: str, host: str) -> str | None:
    """The proxy of the environment for this host. A loopback address is never asked through a proxy."""
    if host in LOOPBACK:
        return None
    proxy = urllib.request.getproxies().get(scheme)
    return None if proxy is None or urllib.request.proxy_bypass(host) else proxy
