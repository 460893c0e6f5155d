"""The engine as a process, asked by the load generator: each is the other's test."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from perdure.bench import load, process
from perdure.bench.load import LoadError, Target
from perdure.bench.probe import percentile
from perdure.bench.process import Child


@pytest.fixture(scope="module")
def engine() -> Iterator[Child]:
    with process.scripted_engine() as child:
        yield child


def chat(text: str, **fields: object) -> dict[str, object]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}


async def test_answers_many_connections_and_keeps_them(engine: Child) -> None:
    target = Target(engine.url)
    connections = [await target.open() for _ in range(8)]
    for _ in range(3):
        answers = await asyncio.gather(
            *(
                c.request("POST", "/v1/chat/completions", chat(f"[[bench tokens={n}]]"))
                for n, c in enumerate(connections, 1)
            )
        )
        assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == list(range(1, 9))
    for connection in connections:
        connection.close()


async def test_a_paced_stream_keeps_its_pace(engine: Child) -> None:
    connection = await Target(engine.url).open()
    started = time.perf_counter()
    answer = await connection.request("POST", "/v1/chat/completions", chat("[[bench tokens=20 pace=100]]", stream=True))
    assert 0.19 <= time.perf_counter() - started < 5
    assert answer.body.count(b'"content"') == 21 and answer.body.endswith(b"data: [DONE]\n\n")
    connection.close()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/v1/chat/completions", {"nonsense": 1}, 400), ("/nowhere", {}, 404), ("/v1/chat/completions", "text", 400)],
)
async def test_bad_requests_are_refused_and_the_connection_lives(
    engine: Child, path: str, body: object, status: int
) -> None:
    connection = await Target(engine.url).open()
    assert (await connection.request("POST", path, body)).status == status
    assert (await connection.request("GET", "/v1/models")).status == 200
    connection.close()


async def test_what_the_process_uses_can_be_read(engine: Child) -> None:
    connection = await Target(engine.url).open()
    before = process.cpu_s(engine.pid)
    while process.cpu_s(engine.pid) == before:
        await connection.request("POST", "/v1/chat/completions", chat("[[bench tokens=500]]", stream=True))
    assert process.cpu_s(engine.pid) > before
    assert 5e6 < process.rss_bytes(engine.pid) < 500e6
    connection.close()


async def test_nobody_there_is_said(engine: Child) -> None:
    with pytest.raises(LoadError, match="No server answers"):
        await Target(f"http://127.0.0.1:{process.free_port()}").open()


async def test_a_server_that_closes_is_an_error_not_a_wait() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        connection = await Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}").open()
        with pytest.raises(LoadError, match="closed the connection"):
            await connection.request("GET", "/")


def test_tokens_are_counted_however_the_network_cuts_them() -> None:
    frame = b'data: {"id":"m",' + load.TOKEN_MARK + b',"content":"x"}\n\n'
    data = frame * 3 + b'data: {"message_type":"stop_reason","stop_reason":"end_turn"}\n\ndata: [DONE]\n\n'
    for cut in range(1, 60):
        times = load.StreamTimes()
        counter = load._FrameCounter(times)
        for at in range(0, len(data), cut):
            counter.feed(data[at : at + cut])
        assert len(times.tokens) == 3 and times.ended_well


@pytest.mark.parametrize(("share", "value"), [(0.5, 3), (0.95, 5), (0.2, 1), (0.0, 1), (1.0, 5)])
def test_percentiles_are_measured_values(share: float, value: float) -> None:
    assert percentile([5, 3, 1, 4, 2], share) == value
