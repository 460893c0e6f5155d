"""The measurements against a server of canned answers: what they report, and what they refuse to report."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httptools
import msgspec
import pytest

from perdure.bench import measure
from perdure.bench.load import TOKEN_MARK, LoadError, Target
from perdure.bench.probe import Bench, Plan
from perdure.bench.report import BUDGETS

SMALL = Plan(
    warm_up=1,
    messages=3,
    tool_messages=2,
    agents=2,
    concurrency=(1, 3),
    load_s=0.02,
    streams=2,
    stream_tokens=5,
    history=(4, 8),
    history_messages=2,
)


class Canned(asyncio.Protocol):
    """A server of the API as far as the benchmark asks. `broken`: what it gets wrong."""

    asked: list[tuple[str, str]]

    def __init__(self, asked: list[tuple[str, str]], broken: str) -> None:
        self.asked = asked
        self._broken = broken

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._new_request()

    def _new_request(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method, path = self._parser.get_method().decode(), self._url.decode()
        self.asked.append((method, path.partition("?")[0]))
        body = msgspec.json.decode(self._body) if self._body else {}
        answer = self._stream(body) if body.get("streaming") else msgspec.json.encode(self._answer(body))
        status = 500 if self._broken == "status" else 200
        self._transport.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(answer), answer))
        self._new_request()

    def _stream(self, body: dict[str, Any]) -> bytes:
        tokens = int(re.findall(r"tokens=(\d+)", body["input"])[0]) - (self._broken == "short stream")
        frame = b'data: {"id":"m",' + TOKEN_MARK + b',"content":"x"}\n\n'
        stop = b'data: {"message_type":"stop_reason","stop_reason":"end_turn"}\n\ndata: [DONE]\n\n'
        return frame * tokens + stop

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        returned = {"message_type": "tool_return_message", "status": "success", "tool_return": "ok"}
        if self._broken == "tool":
            returned |= {"status": "error", "tool_return": "it broke"}
        reason = "error" if self._broken == "stop" else "end_turn"
        stop = {"message_type": "stop_reason", "stop_reason": reason}
        calls = "tool=" in str(body.get("input"))
        return {"id": "x-1", "messages": [returned] if calls else [], "stop_reason": stop}


@pytest.fixture
async def canned(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bench, list[tuple[str, str]]]]:
    asked: list[tuple[str, str]] = []
    broken = getattr(request, "param", "")
    server = await asyncio.get_running_loop().create_server(lambda: Canned(asked, broken), "127.0.0.1", 0)
    bench = Bench(Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), None, SMALL)
    yield bench, asked
    bench.close()
    server.close()


async def test_every_measurement_gives_figures_that_have_a_budget(
    canned: tuple[Bench, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, _ = canned
    bench.pid = 1
    monkeypatch.setattr("perdure.bench.probe.cpu_s", _ticking())
    monkeypatch.setattr(measure, "rss_bytes", lambda pid: 5_000_000)
    monkeypatch.setitem(BUDGETS, "throughput.3", BUDGETS["throughput.8"])
    for length in SMALL.history:
        monkeypatch.setitem(BUDGETS, f"history.{length}", BUDGETS["history.10"])
    figures = [figure for one in measure.MEASUREMENTS.values() for figure in await one(bench)]
    found = {figure.name: figure.value for figure in figures}
    assert found["message.cpu"] == pytest.approx(1000 / SMALL.messages)
    assert found["stream.burst_cpu"] == pytest.approx(1e6 / (SMALL.streams * SMALL.stream_tokens))
    assert found["load.rss"] == 5.0
    assert all(value > 0 for value in found.values())
    assert set(found) <= set(BUDGETS)


async def test_without_a_process_there_are_no_cpu_figures(canned: tuple[Bench, list[tuple[str, str]]]) -> None:
    bench, asked = canned
    names = {figure.name for figure in await measure.message(bench)}
    assert names == {"message.p50", "message.p95"}
    assert await measure.agents(bench) == [] and await measure.history(bench) == []
    assert await measure.memory_after(bench) == []
    assert asked.count(("GET", "/v1/agents/x-1")) == SMALL.warm_up + SMALL.agents


@pytest.mark.parametrize(
    ("canned", "measurement", "says"),
    [
        ("status", "message", "answered 500"),
        ("stop", "message", "answered with 200"),
        ("tool", "builtin tool", "it broke"),
        ("tool", "custom tool", "it broke"),
        ("short stream", "stream", "5 tokens brought 4"),
        ("stop", "throughput", "answered with 200"),
    ],
    indirect=["canned"],
)
async def test_a_wrong_answer_gives_no_figures(
    canned: tuple[Bench, list[tuple[str, str]]], measurement: str, says: str
) -> None:
    with pytest.raises(LoadError, match=says):
        await measure.MEASUREMENTS[measurement](canned[0])


def _ticking() -> Any:
    """A CPU clock that goes on by a second each time it is read."""
    ticks = iter(range(10_000))
    return lambda pid: float(next(ticks))
