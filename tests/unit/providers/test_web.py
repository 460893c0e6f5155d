"""Fetching addresses that anybody may give: what is refused, and that nothing private is reached."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from perdure.core.errors import Invalid
from perdure.providers.web import Limits, Web, is_public, shown


class Site:
    """A web server on loopback that counts who came."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.failures = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.hits.append(request.path)
        if request.path == "/big":
            return web.Response(body=b"x" * 5000)
        if request.path == "/unsized":
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(50):
                await response.write(b"x" * 100)
            return response
        if request.path == "/flaky":
            self.failures += 1
            return web.Response(status=503) if self.failures == 1 else web.Response(body=b"at last")
        if request.path == "/around":
            raise web.HTTPFound("/around")
        if request.path == "/there":
            raise web.HTTPFound("/here")
        if request.path == "/file":
            raise web.HTTPFound("file:///etc/passwd")
        if request.path == "/here":
            return web.Response(body=b"here")
        return web.Response(status=404)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_get("/{tail:.*}", site.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


@pytest.fixture
async def anywhere() -> AsyncIterator[Web]:
    client = Web(allow_private=True)
    yield client
    await client.close()


@pytest.fixture
async def public() -> AsyncIterator[Web]:
    client = Web()
    yield client
    await client.close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses_are_known_in_every_dress(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_nothing_private_is_reached_under_any_name(site: Site, public: Web, host: str) -> None:
    with pytest.raises(Invalid) as error:
        await public.get(f"http://{host}:{site.port}/here", Limits(attempts=1))
    assert host in error.value.message or host.strip("[]") in error.value.message
    assert site.hits == []


async def test_a_redirect_is_followed_and_checked(site: Site, anywhere: Web) -> None:
    assert await anywhere.get(f"{site.url}/there") == b"here"
    with pytest.raises(Invalid, match="use an http or https URL"):
        await anywhere.get(f"{site.url}/file")
    with pytest.raises(Invalid, match="redirects"):
        await anywhere.get(f"{site.url}/around")


@pytest.mark.parametrize("path", ["/big", "/unsized"])
async def test_a_body_beyond_the_limit_is_not_read(site: Site, anywhere: Web, path: str) -> None:
    with pytest.raises(Invalid, match="larger than"):
        await anywhere.get(site.url + path, Limits(max_bytes=1000))


async def test_a_server_error_is_tried_once_more_and_a_404_is_not(site: Site, anywhere: Web) -> None:
    assert await anywhere.get(f"{site.url}/flaky") == b"at last"
    with pytest.raises(Invalid, match="HTTP 404"):
        await anywhere.get(f"{site.url}/missing")
    assert site.hits.count("/missing") == 1


@pytest.mark.parametrize("url", ["ftp://example.com/a", "http://", "http://[::1", "http:///x", "javascript:alert(1)"])
async def test_what_is_no_web_address_is_refused(public: Web, url: str) -> None:
    with pytest.raises(Invalid):
        await public.get(url)


def test_an_error_does_not_repeat_a_password_or_a_token() -> None:
    assert shown("https://user:secret@example.com/a?token=secret#x") == "https://example.com/a"
