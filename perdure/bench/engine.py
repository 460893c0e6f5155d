"""The scripted engine: a model server that answers at once, in its own process, so that it is not what is measured.

It speaks OpenAI chat completions and SGLang's /generate, both streamed and not; `script.py` says what it answers. A
burst is one write, a paced token a write of its own at its own time.
"""

import argparse
import asyncio
import signal
from collections.abc import Sequence
from typing import Any, cast

import httptools
import msgspec

from perdure.bench.script import Reply, chat, generate

CONTEXT_LENGTH = 1_000_000
VOCABULARY = 512
REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 429: b"Too Many Requests"}
POST = {"/v1/chat/completions": chat, "/chat/completions": chat, "/generate": generate}

_encode = msgspec.json.Encoder().encode


class EngineProtocol(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, gets: dict[str, bytes]) -> None:
        self._gets = gets
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is one by shape only
        self._loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, body = self._url.decode("ascii", "replace").partition("?")[0], b"".join(self._body)
        method = self._parser.get_method()
        self._url = b""
        self._body.clear()
        self._answer(self._reply(method, path, body))

    def _reply(self, method: bytes, path: str, body: bytes) -> Reply:
        if method == b"GET" and path in self._gets:
            return Reply(self._gets[path])
        if method == b"POST" and path == "/abort_request":
            return Reply(b"")
        if method != b"POST" or path not in POST:
            return Reply(_error(f"The scripted engine has no {method.decode()} {path}"), status=404)
        try:
            return POST[path](body)
        except (msgspec.DecodeError, ValueError) as error:
            return Reply(_error(str(error)), status=400)

    def _answer(self, reply: Reply) -> None:
        if reply.delay_s:
            self._timer = self._loop.call_later(reply.delay_s, self._send, reply)
        else:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        if self._closed:
            return
        if not reply.streamed:
            self._transport.write(_head(reply.status, b"application/json", len(reply.head)) + reply.head)
            return
        head = _head(reply.status, b"text/event-stream", None)
        if not reply.pace:
            whole = b"".join((reply.head, *reply.chunks, reply.tail))
            self._transport.write(head + _chunk(whole) + b"0\r\n\r\n")
            return
        self._transport.write(head + (_chunk(reply.head) if reply.head else b""))
        self._pace(reply, 0, self._loop.time())

    def _pace(self, reply: Reply, at: int, started: float) -> None:
        """Send chunk `at`, and the next when it is due: its time counts from the start, so delays do not add up."""
        if at == len(reply.chunks):
            self._transport.write(_chunk(reply.tail) + b"0\r\n\r\n")
            return
        self._transport.write(_chunk(reply.chunks[at]))
        self._timer = self._loop.call_at(started + (at + 1) / reply.pace, self._pace, reply, at + 1, started)


def answers_to_get(tokenizer_path: str, names: Sequence[str]) -> dict[str, bytes]:
    card = {"object": "model", "owned_by": "perdure", "max_model_len": CONTEXT_LENGTH, "context_length": CONTEXT_LENGTH}
    models = _encode({"object": "list", "data": [{"id": name, **card} for name in names]})
    info = _encode(
        {
            "model_path": "scripted",
            "served_model_name": "scripted",
            "tokenizer_path": tokenizer_path,
            "is_generation": True,
            "weight_version": "default",
        }
    )
    server = _encode({"version": "scripted", "context_length": CONTEXT_LENGTH, "vocab_size": VOCABULARY})
    return {
        "/health": b"{}",
        "/health_generate": b"{}",
        "/v1/models": models,
        "/models": models,
        "/model_info": info,
        "/get_model_info": info,
        "/server_info": server,
        "/get_server_info": server,
    }


async def serve(port: int, tokenizer_path: str, names: Sequence[str]) -> None:
    """Answer on `port` of this machine until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    gets = answers_to_get(tokenizer_path, names)
    server = await loop.create_server(lambda: EngineProtocol(gets), "127.0.0.1", port, backlog=1024)
    async with server:
        await stopped.wait()


def _head(status: int, content_type: bytes, length: int | None) -> bytes:
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    reason = REASONS.get(status, b"Scripted")
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\n%s\r\n\r\n" % (status, reason, content_type, framing)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _error(message: str) -> bytes:
    return _encode({"error": {"message": message, "type": "invalid_request_error"}})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perdure.bench.engine", description="The scripted engine.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokenizer", default="", help="the tokenizer folder /model_info tells of")
    parser.add_argument("--model", action="append", default=["scripted"], help="another name to list")
    options = parser.parse_args()
    run(serve(options.port, options.tokenizer, options.model))


def run(main: Any) -> Any:
    """asyncio.run, on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.run(main)
    return uvloop.run(main)


if __name__ == "__main__":
    main()
