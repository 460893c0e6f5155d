"""A loopback server that answers raw bytes, and recorded answers as the bytes they came in."""

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[1] / "contract" / "providers" / "samples"


def sample(name: str) -> dict[str, Any]:
    """What a real engine answered (recorded; see scripts/engines)."""
    return json.loads((SAMPLES / f"{name}.json").read_text())


def as_stream(frames: list[Any]) -> bytes:
    """Recorded frames as the bytes they came in."""
    texts = [frame if isinstance(frame, str) else json.dumps(frame) for frame in frames]
    return "".join(f"data: {each}\n\n" for each in texts).encode()


@contextmanager
def hole() -> Iterator[int]:
    """The port of a host that takes no more connections: its queue is full and nobody empties it."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield full.getsockname()[1]
        for each in waiting:
            each.close()


class Wire:
    """A server in the test's own loop that answers raw bytes. `answers` in order, then the last one for ever; each is the
    whole HTTP answer as pieces to write: bytes, a number of seconds to wait, or None to drop the connection. `apart`: what
    requests of their own, by method and path, are answered instead."""

    def __init__(self) -> None:
        self.answers: list[Sequence[bytes | float | None]] = []
        self.apart: dict[str, Sequence[bytes | float | None]] = {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.closed_by_client = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed_by_client += 1
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest if each)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = line.rpartition(" ")[0]
        self.requests.append((asked, headers, body))
        answer = self.apart.get(asked) or (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        for piece in answer:
            if piece is None:
                return False
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
                continue
            left = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({left}, timeout=piece)
            if left.done():
                self.closed_by_client += 1
                return False
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
        return True


def answer(status: int, body: Any, **headers: str) -> list[bytes | float | None]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/json" if not isinstance(body, bytes) else "text/plain"
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Length: {len(raw)}",
        f"Content-Type: {headers.pop('content_type', kind)}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + raw]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


END = b"0\r\n\r\n"


def streamed(frames: list[Any]) -> list[bytes | float | None]:
    """Recorded frames as one whole HTTP answer."""
    return [HEAD + chunk(as_stream(frames)) + END]
