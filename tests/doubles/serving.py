"""What every double of a provider is: a web application in a thread of the test process, so that the server under test, a
process or a loop of its own, can ask it while the test waits; and the turns it plays back, in order."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

Turn = dict[str, Any]


@web.middleware
async def _quiet(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whoever asked may leave while it is answered: tests kill servers and cancel runs. That is no error to log."""
    try:
        return await handler(request)
    except ConnectionResetError:
        return web.Response()


class Double:
    """`port` is there once `serve` returns. `close` ends the thread and drops what is connected."""

    port = 0

    def serve(self, app: Callable[[], web.Application], **runner: Any) -> None:
        """`app` makes the application, in the thread; `runner` goes to its AppRunner."""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(app, runner), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self, app: Callable[[], web.Application], options: dict[str, Any]) -> None:
        asyncio.set_event_loop(self._loop)
        served = app()
        served.middlewares.append(_quiet)
        runner = web.AppRunner(served, **options)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())


class TurnsDouble(Double):
    """`turns` are answered in order, then `default`; either may be a function of the request. `requests` holds what was asked.
    Nothing is answered while `gate` is there and closed. A turn's `delay_s` passes before it is answered."""

    def __init__(self, models: tuple[str, ...], default: Turn) -> None:
        self.models = models
        self.turns: deque[Turn | Callable[[dict[str, Any]], Turn]] = deque()
        self.default: Turn | Callable[[dict[str, Any]], Turn] = default
        self.requests: list[dict[str, Any]] = []
        self.gate: threading.Event | None = None
        self.serve(self._app)

    def script(self, *turns: Turn) -> None:
        self.turns.extend(turns)

    def reset(self) -> None:
        """As it was made, for the next test that shares it."""
        self.turns.clear()
        self.requests.clear()
        self.gate = None

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        self._routes(app)
        return app

    def _routes(self, app: web.Application) -> None:
        raise NotImplementedError

    async def _next(self, body: dict[str, Any]) -> Turn:
        """The turn that answers a request, once the gate is open and its delay is over."""
        turn = self.turns.popleft() if self.turns else self.default
        if callable(turn):
            turn = turn(body)
        while self.gate is not None and not self.gate.is_set():
            await asyncio.sleep(0.01)
        if turn.get("delay_s"):
            await asyncio.sleep(turn["delay_s"])
        return turn
