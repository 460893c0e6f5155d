"""The client's connections: how answers are framed and encoded, what makes a connection unusable, and the ways to a server."""

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perdure.core.errors import Invalid, ProviderError
from perdure.providers import http_pool
from perdure.providers.http import Endpoint, Http, Timeouts
from perdure.providers.http_pool import Origin, Pool
from tests.doubles.wire import END, HEAD, Wire, answer, chunk, hole

uvloop = pytest.importorskip("uvloop", reason="not on this platform")
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """What a server runs on, and what everything else does."""
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server in the test's own loop."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, host, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def get(http: Http, wire: Wire) -> bytes:
    return await http.call(Endpoint("acme", wire.url), "/x", b"{}", retry=False)


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
async def test_an_answer_may_be_cut_anywhere(http: Http, wire: Wire, cut: int) -> None:
    whole = HEAD + chunk(b"one ") + chunk(b"two") + END
    wire.answers = [[piece for at in range(0, len(whole), cut) for piece in (whole[at : at + cut], 0.0)]]
    assert await get(http, wire) == b"one two"
    assert await get(http, wire) == b"one two"
    assert wire.connections == 1


async def test_an_interim_answer_is_not_the_answer(http: Http, wire: Wire) -> None:
    wire.answers = [
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", *answer(200, b"yes")]
    ]
    assert await get(http, wire) == b"yes"
    assert await get(http, wire) == b"yes"


async def test_an_answer_without_a_length_ends_with_its_connection(http: Http, wire: Wire) -> None:
    wire.answers = [[b"HTTP/1.1 200 OK\r\n\r\nall ", 0.01, b"of it", None]]
    assert await get(http, wire) == b"all of it"
    assert await get(http, wire) == b"all of it"
    assert wire.connections == 2


async def test_an_answer_with_a_length_does_not(http: Http, wire: Wire) -> None:
    wire.answers = [[b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome of it", None]]
    with pytest.raises(ProviderError, match="broke in the middle"):
        await get(http, wire)


async def test_a_connection_that_is_to_be_closed_is_not_used_again(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, b"yes", Connection="close")]
    assert [await get(http, wire) for _ in range(2)] == [b"yes"] * 2
    assert wire.connections == 2


@pytest.mark.parametrize("kind", ["gzip", "deflate", "bare deflate"])
async def test_a_compressed_answer_is_read(http: Http, wire: Wire, kind: str) -> None:
    text = b'{"text": "' + b"all work and no play " * 500 + b'"}'
    bare = zlib.compressobj(wbits=-15)
    packed = {"gzip": gzip.compress(text), "deflate": zlib.compress(text)}.get(kind) or bare.compress(
        text
    ) + bare.flush()
    head = HEAD.replace(b"\r\n\r\n", f"\r\nContent-Encoding: {kind.split()[-1]}\r\n\r\n".encode())
    wire.answers = [[head + b"".join(chunk(packed[at : at + 50]) for at in range(0, len(packed), 50)) + END]]
    assert await get(http, wire) == text
    assert await get(http, wire) == text


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", b"not gzip at all"), ("br", b"x"), ("gzip", gzip.compress(b"\0" * (1 << 26)))],
    ids=["not what it says", "unknown", "a bomb"],
)
async def test_a_body_that_cannot_be_decompressed_is_an_error(
    http: Http, wire: Wire, encoding: str, body: bytes
) -> None:
    wire.answers = [answer(200, body, Content_Encoding=encoding)]
    with pytest.raises(ProviderError, match=r"decompress|encoded as") as failed:
        await get(http, wire)
    assert failed.value.kind == "llm_connection"


@pytest.mark.parametrize(
    "noise", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n", b"\x16\x03\x01\0\x02"]
)
async def test_what_is_not_http_is_said_to_be_so(http: Http, wire: Wire, noise: bytes) -> None:
    wire.answers = [[noise, 0.05, None]]
    with pytest.raises(ProviderError, match="not HTTP") as failed:
        await get(http, wire)
    assert failed.value.kind == "llm_connection"


async def test_headers_without_end_are_an_error(http: Http, wire: Wire) -> None:
    wire.answers = [[b"HTTP/1.1 200 OK\r\n", *[b"X-Again: and again\r\n" * 100] * 20, 0.1]]
    with pytest.raises(ProviderError, match="more than 500 headers"):
        await get(http, wire)


async def test_a_server_that_says_more_than_its_answer_is_not_believed(http: Http, wire: Wire) -> None:
    wire.answers = [[*answer(200, b"one"), 0.02, *answer(200, b"planted")], answer(200, b"two")]
    assert await get(http, wire) == b"one"
    await asyncio.sleep(0.1)
    assert await get(http, wire) == b"two"
    assert wire.connections == 2


async def test_a_connection_the_server_closed_meanwhile_is_not_used(http: Http, wire: Wire) -> None:
    wire.answers = [[*answer(200, b"one"), 0.05, None]]
    assert await get(http, wire) == b"one"
    await asyncio.sleep(0.15)
    assert await get(http, wire) == b"one"


async def test_idle_connections_are_closed_after_a_while(
    http: Http, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pool, "KEPT_S", 0.1)
    wire.answers = [answer(200, b"one")]
    await get(http, wire)
    await asyncio.sleep(0.3)
    assert wire.closed_by_client == 1


async def test_a_reader_that_is_slow_slows_the_sender(http: Http) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for _ in range(400):
            writer.write(chunk(b"x" * 100_000))
            await writer.drain()
            sent += 100_000
        writer.write(END)
        await writer.drain()

    async with serving(pour) as port:
        endpoint = Endpoint("acme", f"http://127.0.0.1:{port}")
        async with await http.open(endpoint, "/x", method="GET") as opened:
            await asyncio.sleep(0.4)
            assert 0 < sent < 30_000_000
            size = 0
            while data := await opened.read():
                size += len(data)
        assert size == 40_000_000


async def test_time_spent_by_the_reader_is_not_silence(http: Http, wire: Wire) -> None:
    wire.answers = [[HEAD + chunk(b"one"), 0.01, chunk(b"two") + END]]
    quick = Endpoint("acme", wire.url, timeouts=Timeouts(first_byte_s=0.2, between_s=0.2))
    async with await http.open(quick, "/x", b"{}") as opened:
        assert await opened.read() == b"one"
        await asyncio.sleep(0.4)
        assert await opened.read() == b"two"
        assert await opened.read() == b""


async def test_a_large_request_arrives_whole(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, b"yes")]
    body = bytes(range(256)) * 20_000
    assert await http.call(Endpoint("acme", wire.url), "/x", body) == b"yes"
    assert wire.requests[0][2] == body


async def test_an_answer_that_comes_all_at_once_begins_before_it_is_whole(http: Http, wire: Wire) -> None:
    words = [f"{at:08d}".encode() for at in range(20_000)]
    wire.answers = [[HEAD + b"".join(map(chunk, words)) + END]]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with await http.open(Endpoint("acme", wire.url), "/x", b"{}", retry=False) as response:
        other = asyncio.create_task(others())
        first = await response.read()
        before = turns
        pieces = [first, await response.read()]
        assert len(first) <= 2048 and turns > before, (
            "whoever shows the beginning has its turn before the rest is there"
        )
        while data := await response.read():
            pieces.append(data)
        other.cancel()
    assert b"".join(pieces) == b"".join(words)


async def test_a_cancelled_call_takes_its_connection_with_it(http: Http, wire: Wire) -> None:
    wire.answers = [[5.0]]
    call = asyncio.create_task(get(http, wire))
    await asyncio.sleep(0.1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.sleep(0.1)
    assert wire.closed_by_client == 1


@pytest.mark.parametrize("value", ["a\r\nX-Planted: 1", "a\nb", "a\0b"])
async def test_a_header_cannot_smuggle_another_in(http: Http, wire: Wire, value: str) -> None:
    with pytest.raises(Invalid, match="header 'X-Tenant'"):
        await http.call(Endpoint("acme", wire.url, headers={"X-Tenant": value}), "/x", b"{}")
    assert wire.connections == 0


async def test_a_name_and_password_in_the_address_are_sent_and_never_shown(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, b"yes"), answer(500, b"no")]
    url = wire.url.replace("://", "://ada:pass%20word@")
    endpoint = Endpoint("acme", url, headers={"authorization": "Bearer key"})
    assert await http.call(endpoint, "/x", method="GET") == b"yes"
    assert wire.requests[0][1]["authorization"] == "Basic YWRhOnBhc3Mgd29yZA=="
    with pytest.raises(ProviderError) as failed:
        await http.call(endpoint, "/x", method="GET", retry=False)
    assert "word" not in failed.value.message and "word" not in endpoint.base_url


async def test_a_path_is_sent_as_a_path(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, b"yes")]
    for path in ("/models/a b/é?limit=2", "/models/a%2Fb"):
        await http.call(Endpoint("acme", f"{wire.url}/v1"), path, method="GET")
    assert [line for line, _, _ in wire.requests] == ["GET /v1/models/a%20b/%C3%A9?limit=2", "GET /v1/models/a%2Fb"]


async def test_where_an_answer_points_is_gone_to_without_the_key_if_it_is_another_server(
    http: Http, wire: Wire
) -> None:
    other = Wire()
    await other.start()
    other.answers = [answer(200, b"there")]
    wire.answers = [answer(302, b"", Location="/next"), answer(307, b"", Location=f"{other.url}/file?a=1")]
    endpoint = Endpoint("acme", wire.url, headers={"Authorization": "Bearer secret"})
    async with await http.open(endpoint, "/x", method="GET", follow=True) as opened:
        assert await opened.read_all() == b"there"
    assert [line for line, _, _ in wire.requests] == ["GET /x", "GET /next"]
    assert [headers.get("authorization") for _, headers, _ in wire.requests] == ["Bearer secret"] * 2
    assert other.requests[0][0] == "GET /file?a=1" and "authorization" not in other.requests[0][1]
    wire.answers = [answer(302, b"", Location="/around")]
    with pytest.raises(ProviderError, match="more than 10 times"):
        await http.open(endpoint, "/x", method="GET", follow=True, retry=False)
    await other.stop()


# -- the ways to a server


class Authority:
    """A certificate authority of the test's own, and a server's certificate by it."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.bundle = folder / "authority.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A test's authority")])
        authority = self._signed(own, own, key, key, x509.BasicConstraints(ca=True, path_length=None))
        self.bundle.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        server_key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        server = self._signed(subject, own, server_key, key, x509.SubjectAlternativeName(alternatives))
        pem = folder / "server.pem"
        pem.write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + server.public_bytes(serialization.Encoding.PEM)
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pem)

    def _signed(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        by: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(extension, critical=False)
        return builder.sign(by, hashes.SHA256())


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line))
        await writer.drain()


class Proxy:
    """A proxy on loopback: it tunnels, or answers itself and says what it was asked."""

    def __init__(self, refuse: bool = False) -> None:
        self.heads: list[str] = []
        self.refuse = refuse

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if self.refuse:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        if not head.startswith("CONNECT "):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy")
            await writer.drain()
            return
        port = head.split(" ")[1].rpartition(":")[2]
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pass(reader, upstream), _pass(upstream_reader, writer))
        finally:
            upstream.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_tls_is_spoken_and_the_certificate_checked(
    http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "127.0.0.1")
    async with serving(greet, context=authority.context) as port:
        endpoint = Endpoint("acme", f"https://127.0.0.1:{port}")
        with pytest.raises(ProviderError, match="No secure connection to acme") as failed:
            await http.call(endpoint, "/x", method="GET")
        assert failed.value.kind == "llm_connection" and not failed.value.retryable
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
        trusting = Http()
        for _ in range(2):
            assert await trusting.call(endpoint, "/x", method="GET") == b"GET /x HTTP/1.1"
        with pytest.raises(ProviderError, match="No secure connection"):  # a certificate for another name
            await trusting.call(Endpoint("acme", f"https://localhost:{port}"), "/x", method="GET", retry=False)
        await trusting.close()


async def test_tls_spoken_to_a_server_that_does_not_is_said_to_be_so(http: Http) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with serving(plain) as port:
        with pytest.raises(ProviderError, match="http:// against https://"):
            await http.call(Endpoint("acme", f"https://127.0.0.1:{port}"), "/x", method="GET", retry=False)


async def test_a_secure_server_is_reached_through_a_proxy(
    http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, proxy = Authority(tmp_path, "api.acme.test"), Proxy()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    async with serving(greet, context=authority.context) as port, serving(proxy.serve) as proxy_port:
        monkeypatch.setenv("https_proxy", f"http://ada:pass%20word@127.0.0.1:{proxy_port}")
        monkeypatch.setenv("no_proxy", "")
        endpoint = Endpoint("acme", f"https://api.acme.test:{port}", headers={"Authorization": "Bearer secret"})
        for _ in range(2):
            assert await http.call(endpoint, "/x", method="GET") == b"GET /x HTTP/1.1"
    assert len(proxy.heads) == 1  # the tunnel is used again
    assert proxy.heads[0].startswith(f"CONNECT api.acme.test:{port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic YWRhOnBhc3Mgd29yZA==" in proxy.heads[0] and "secret" not in proxy.heads[0]


async def test_a_proxy_in_the_middle_is_told_all_of_the_address(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    async with serving(proxy.serve) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        endpoint = Endpoint("acme", "http://api.acme.test/v1")
        assert await http.call(endpoint, "/models?a=1", method="GET") == b"proxy"
    assert proxy.heads[0].startswith("GET http://api.acme.test/v1/models?a=1 HTTP/1.1\r\nHost: api.acme.test\r\n")


async def test_a_proxy_that_refuses_is_named_as_the_cause(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy(refuse=True)
    async with serving(proxy.serve) as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(ProviderError, match=r"the proxy refused: HTTP/1\.1 407"):
            await http.call(Endpoint("acme", "https://api.acme.test"), "/x", method="GET", retry=False)


@pytest.fixture
def silent() -> Iterator[int]:
    with hole() as port:
        yield port


def _ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_of_several_addresses_the_first_that_answers_is_taken(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool()
    async with serving(greet) as port:
        infos = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", silent)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

        async def resolved(host: str, port: int, **_: object) -> list[object]:
            return list(infos) if host == "acme.test" else [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        connection = await pool.connection(Origin(False, "acme.test", port), 3.0)
        exchange = connection.send(b"GET / HTTP/1.1\r\n\r\n", None, 1.0, 1.0)
        await exchange.begin()
        assert await exchange.read() == b"GET / HTTP/1.1"
    pool.close()


@pytest.mark.skipif(not _ipv6(), reason="this machine has no IPv6 loopback")
async def test_an_ipv6_address_is_written_in_brackets(http: Http) -> None:
    async with serving(greet, host="::1") as port:
        assert await http.call(Endpoint("acme", f"http://[::1]:{port}"), "/x", method="GET") == b"GET /x HTTP/1.1"


async def test_no_connection_in_time_is_a_timeout(http: Http, silent: int) -> None:
    endpoint = Endpoint("acme", f"http://127.0.0.1:{silent}", timeouts=Timeouts(connect_s=0.2))
    with pytest.raises(ProviderError, match=r"no connection within 0.2 s") as failed:
        await http.call(endpoint, "/x", method="GET", retry=False)
    assert failed.value.kind == "llm_timeout" and failed.value.retryable
