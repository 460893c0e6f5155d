"""The shared client: what reaches the wire, what is tried again, and what failures are called."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from perdure.core.errors import Invalid, ProviderError
from perdure.providers.http import Endpoint, Http, Timeouts
from perdure.providers.retries import Retries
from tests.doubles.wire import END, HEAD, Wire, answer, chunk

QUICK = Timeouts(connect_s=0.5, first_byte_s=0.2, between_s=0.2)


def endpoint(wire: Wire, **more: object) -> Endpoint:
    return Endpoint("acme", wire.url, headers={"Authorization": "Bearer secret"}, **more)  # type: ignore[arg-type]


async def test_what_is_sent_is_what_is_needed(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, {"ok": True})]
    assert await http.call(endpoint(wire), "/v1/x", b'{"a":1}') == b'{"ok": true}'
    line, headers, body = wire.requests[0]
    assert (line, body) == ("POST /v1/x", b'{"a":1}')
    assert headers.pop("user-agent").startswith("perdure/") and headers.pop("host") in wire.url
    assert headers == {"authorization": "Bearer secret", "content-type": "application/json", "content-length": "7"}


async def test_connections_are_used_again(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, {})]
    for _ in range(5):
        await http.call(endpoint(wire), "/x", b"{}")
    assert (wire.connections, len(wire.requests)) == (1, 5)


async def test_a_left_answer_gives_its_connection_back(http: Http, wire: Wire) -> None:
    wire.answers = [[HEAD + chunk(b"data: [DONE]\n\n"), 0.05, END]]
    for _ in range(3):
        async with await http.open(endpoint(wire), "/x", b"{}") as opened:
            await opened.read()
            opened.leave()
        await asyncio.sleep(0.15)
    assert wire.connections == 1


async def test_an_answer_that_is_closed_early_drops_its_connection(http: Http, wire: Wire) -> None:
    wire.answers = [[HEAD + chunk(b"data: 1\n\n"), 5.0]]
    async with await http.open(endpoint(wire), "/x", b"{}") as opened:
        assert await opened.read() == b"data: 1\n\n"
    await asyncio.sleep(0.1)
    assert wire.closed_by_client == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_tried_again(http: Http, wire: Wire, status: int) -> None:
    wire.answers = [answer(status, {}), answer(status, {}), answer(200, {"ok": 1})]
    assert await http.call(endpoint(wire), "/x", b"{}") == b'{"ok": 1}'
    assert [body for _, _, body in wire.requests] == [b"{}"] * 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
async def test_what_will_not_pass_is_not(http: Http, wire: Wire, status: int) -> None:
    wire.answers = [answer(status, {"error": {"message": "no"}})]
    with pytest.raises(ProviderError):
        await http.call(endpoint(wire), "/x", b"{}")
    assert len(wire.requests) == 1


async def test_attempts_end(http: Http, wire: Wire) -> None:
    wire.answers = [answer(503, {})]
    with pytest.raises(ProviderError) as failed:
        await http.call(endpoint(wire), "/x", b"{}")
    assert failed.value.kind == "llm_overloaded" and len(wire.requests) == 3


async def test_no_credits_is_final(http: Http, wire: Wire) -> None:
    wire.answers = [answer(429, {"error": {"code": "insufficient_quota", "message": "insufficient_quota"}})]
    with pytest.raises(ProviderError) as failed:
        await http.call(endpoint(wire), "/x", b"{}")
    assert failed.value.kind == "llm_insufficient_credits" and len(wire.requests) == 1


async def test_retry_after_is_waited_for_within_reason(wire: Wire) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    http = Http(sleep=sleep)
    wire.answers = [answer(429, {}, Retry_After="7"), answer(429, {}, retry_after_ms="1500"), answer(200, {})]
    await http.call(endpoint(wire), "/x", b"{}")
    assert waits == [7.0, 1.5]
    wire.answers = [answer(429, {}, Retry_After="3600")]
    with pytest.raises(ProviderError) as failed:
        await http.call(endpoint(wire), "/x", b"{}")
    assert failed.value.retry_after_s == 3600 and len(waits) == 2
    wire.answers = [answer(429, {}, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True))]
    wire.answers.append(answer(200, {}))
    await http.call(endpoint(wire), "/x", b"{}")
    assert 0 < waits[2] <= 9
    wire.answers = [answer(429, {}, Retry_After="soon"), answer(200, {})]
    await http.call(endpoint(wire, retries=Retries(base_s=1.0)), "/x", b"{}")
    assert 0.7 < waits[3] < 1.3
    await http.close()


async def test_a_connection_dropped_before_an_answer_is_tried_again(http: Http, wire: Wire) -> None:
    wire.answers = [[None], answer(200, {})]
    assert await http.call(endpoint(wire), "/x", b"{}") == b"{}"
    wire.answers = [[None]]
    with pytest.raises(ProviderError, match="closed the connection") as failed:
        await http.call(endpoint(wire), "/x", b"{}")
    assert failed.value.kind == "llm_connection" and failed.value.retryable


async def test_nothing_is_tried_again_once_an_answer_has_begun(http: Http, wire: Wire) -> None:
    wire.answers = [[HEAD + chunk(b"data: 1\n\n"), None]]
    async with await http.open(endpoint(wire), "/x", b"{}") as opened:
        with pytest.raises(ProviderError, match="broke in the middle") as failed:
            while await opened.read():
                pass
    assert failed.value.kind == "llm_connection" and len(wire.requests) == 1


async def test_nobody_listens_there(http: Http) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ProviderError, match="connection refused") as failed:
            await http.call(Endpoint("acme", url), "/models", method="GET")
    assert failed.value.kind == "llm_connection" and f"{url}/models" in failed.value.message


async def test_no_such_host(http: Http) -> None:
    with pytest.raises(ProviderError, match="not found") as failed:
        await http.call(Endpoint("acme", "http://no-such-host.invalid"), "/x", retry=False)
    assert failed.value.kind == "llm_connection"


async def test_silence_times_out(http: Http, wire: Wire) -> None:
    wire.answers = [[5.0]]
    with pytest.raises(ProviderError, match=r"nothing arrived for 0.2 s") as failed:
        await http.call(endpoint(wire, timeouts=QUICK), "/x", b"{}")
    assert failed.value.kind == "llm_timeout" and len(wire.requests) == 1


async def test_silence_in_the_middle_times_out_by_its_own_limit(http: Http, wire: Wire) -> None:
    patient = Timeouts(first_byte_s=5.0, between_s=0.2)
    wire.answers = [[HEAD + chunk(b"data: 1\n\n"), 5.0]]
    async with await http.open(endpoint(wire, timeouts=patient), "/x", b"{}") as opened:
        await opened.read()
        with pytest.raises(ProviderError, match=r"nothing arrived for 0.2 s") as failed:
            await opened.read()
    assert failed.value.kind == "llm_timeout" and not failed.value.retryable


async def test_a_call_may_be_bounded_as_a_whole(http: Http, wire: Wire) -> None:
    wire.answers = [[5.0]]
    with pytest.raises(ProviderError, match="no answer within"):
        await http.call(endpoint(wire), "/x", b"{}", timeout_s=0.1)


async def test_pages_of_proxies_are_summarised(http: Http, wire: Wire) -> None:
    page = b"<html><head><title>502 Bad Gateway</title></head><body>" + b"x" * 10_000
    wire.answers = [answer(502, page, content_type="text/html")]
    with pytest.raises(ProviderError) as failed:
        await http.call(endpoint(wire), "/x", b"{}", retry=False)
    assert failed.value.message == "acme answered 502: an HTML page ('502 Bad Gateway')."
    assert "secret" not in str(failed.value.detail)


async def test_redirects_are_not_followed(http: Http, wire: Wire) -> None:
    wire.answers = [answer(307, b"", Location="http://elsewhere.invalid/")]
    with pytest.raises(ProviderError, match="redirect"):
        await http.call(endpoint(wire), "/x", b"{}")


@pytest.mark.parametrize("url", ["", "acme.test/v1", "ftp://acme.test", "http://"])
def test_base_urls_are_checked(url: str) -> None:
    with pytest.raises(Invalid, match="base URL of provider 'acme'"):
        Endpoint("acme", url)


def test_a_proxy_is_used_but_never_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "inside.test")
    assert Endpoint("a", "https://api.acme.test/v1").proxy == "http://proxy.test:3128"
    assert Endpoint("a", "https://inside.test/v1").proxy is None
    assert Endpoint("a", "http://127.0.0.1:8000").proxy is None


async def test_a_client_outlives_an_event_loop(wire: Wire) -> None:
    wire.answers = [answer(200, {})]
    http, url = Http(), wire.url

    async def ask() -> bytes:
        found = await http.call(Endpoint("acme", url), "/x", b"{}")
        await http.close()
        return found

    assert await asyncio.to_thread(asyncio.run, ask()) == b"{}"
    assert await ask() == b"{}"
