"""What engines that stream token ids have in common: an answer read to its end, or asked for again, or aborted.

Invariant: a request id is used once, since an engine may still hold it from an attempt that failed; and an answer that is left
before its end is aborted by its id.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

import msgspec

from perdure.core.errors import ProviderError
from perdure.parsing.sse import SseParser
from perdure.providers.attempts import attempts
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.http import Answer, Endpoint, Http

ABORT_S = 5.0

Ids = AsyncGenerator[TokenBatch | TokenDone, None]

_encode = msgspec.json.Encoder().encode


class Generation(Protocol):
    """One answer under way. `request_id`: what the engine calls it; None where that is not known (yet).
    `heavy`: its end takes a while to read."""

    request_id: str | None

    @property
    def heavy(self) -> bool: ...

    def take(self, frames: list[bytes]) -> TokenBatch | None: ...

    def done(self, request: bytes) -> TokenDone: ...


class Aborts:
    """The aborts of one engine: `path` is asked with what `fields` makes of a request id."""

    def __init__(self, http: Http, endpoint: Endpoint, path: str, fields: Callable[[str], dict[str, Any]]) -> None:
        self._http = http
        self._endpoint = endpoint
        self._path = path
        self._fields = fields
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, request_id: str) -> None:
        """Tell the engine to stop. The dropped connection says it too, but a proxy between may not pass that on."""
        task = asyncio.get_running_loop().create_task(self._send(request_id))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def finish(self) -> None:
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _send(self, request_id: str) -> None:
        body = _encode(self._fields(request_id))
        try:
            await self._http.call(self._endpoint, self._path, body, retry=False, timeout_s=ABORT_S)
        except ProviderError:
            return  # it is gone, and the generation with it


def asked(http: Http, endpoint: Endpoint, request: TokenRequest, once: Callable[[TokenRequest], Ids]) -> Ids:
    """The answer to the request, asked for again as `attempts` does, each time under another request id."""
    first = True

    def ask() -> Ids:
        nonlocal first
        this = request if first else msgspec.structs.replace(request, request_id=uuid.uuid4().hex)
        first = False
        return once(this)

    return attempts(http, endpoint.retries, ask)


async def read(
    opening: Callable[[], Awaitable[tuple[Answer, bytes]]], generation: Generation, abort: Callable[[str], None]
) -> Ids:
    """One answer. `opening`: the answer under way and the request it answers. `abort`: of one that is left before its end."""
    over = False
    try:
        response, body = await opening()
        async with response:
            parser = SseParser()
            while not parser.done and (data := await response.read()):
                if batch := generation.take(parser.feed(data)):
                    yield batch
            if batch := generation.take(parser.finish()):
                yield batch
            response.leave()
            done = await asyncio.to_thread(generation.done, body) if generation.heavy else generation.done(body)
        over = True
        yield done
    except ProviderError as error:
        over = error.status is not None  # the engine told its end itself
        raise
    finally:
        if not over and generation.request_id is not None:
            abort(generation.request_id)
