"""Runs tool code in processes of a Ray cluster: each is a host with a sandbox of its own, strict where its machine can.

Nothing that a tool could have written is unpickled here: a host answers with checked JSON. Ray must have been initialised.
"""

import asyncio
import importlib
import logging
from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.tools.sandbox.isolation import Isolation
from perdure.tools.sandbox.pool import DEFAULT_RETURN_CHAR_LIMIT, Sandbox
from perdure.tools.sandbox.result import IsolationUnavailable, SandboxResult

log = logging.getLogger(__name__)

READY_S = 120.0
LOOK_S = 1.0
_result = msgspec.json.Decoder(SandboxResult).decode


class ToolHost:
    """What runs in a process of the cluster. `options`: as for Sandbox."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._sandbox = Sandbox(**options)

    async def start(self) -> tuple[Isolation, str | None]:
        """The isolation that its machine can do, and what is to be said of it. IsolationUnavailable."""
        await self._sandbox.start()
        return self._sandbox.isolation, self._sandbox.warning

    async def run(self, call: dict[str, Any]) -> bytes:
        await self._sandbox.start()  # at once where it has been: a host that Ray started again has not
        return msgspec.json.encode(await self._sandbox.run(**call))


class _Host:
    """A process of the cluster as the server sees it. `back`: set unless it is gone and not yet started again."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.calls = 0
        self.back = asyncio.Event()
        self.back.set()


class RaySandbox(Sandbox):
    """A sandbox whose calls run on `hosts` processes of the cluster, each with `options` as Sandbox takes them."""

    def __init__(self, *, hosts: int, **options: Any) -> None:
        super().__init__(**options)
        self._options = options
        self._number = hosts
        self._hosts: list[_Host] = []
        self._reviving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the hosts. IsolationUnavailable if the cluster has no room for them, or none of its machines can."""
        if self._hosts:
            return
        ray: Any = importlib.import_module("ray")
        host = ray.remote(ToolHost).options(
            num_cpus=1, max_concurrency=1000, max_restarts=-1, scheduling_strategy="SPREAD"
        )
        hosts = [host.remote(self._options) for _ in range(self._number)]
        try:
            async with asyncio.timeout(READY_S):
                told: list[tuple[Isolation, str | None]] = list(
                    await asyncio.gather(*(_answer(each.start.remote()) for each in hosts))
                )
        except TimeoutError as error:
            raise IsolationUnavailable(
                f"The Ray cluster did not start {self._number} processes for tools within {READY_S:g} s. Give it as many free "
                "CPUs, or set PERDURE_RAY_WORKERS to fewer."
            ) from error
        self._hosts = [_Host(each) for each in hosts]
        self.isolation = "strict" if all(isolation == "strict" for isolation, _ in told) else "process"
        self.warning = next((warning for _, warning in told if warning is not None), None)

    async def close(self) -> None:
        ray: Any = importlib.import_module("ray")
        for task in self._reviving:
            task.cancel()
        await asyncio.gather(*self._reviving, return_exceptions=True)
        hosts, self._hosts = self._hosts, []
        for host in hosts:
            ray.kill(host.actor)

    async def run(
        self,
        *,
        source: str,
        function: str,
        args: dict[str, Any],
        env: dict[str, str],
        timeout_s: float | None = None,
        allow_network: bool = False,
        return_char_limit: int = DEFAULT_RETURN_CHAR_LIMIT,
        pip_requirements: Iterable[Any] | None = None,
    ) -> SandboxResult:
        ray: Any = importlib.import_module("ray")
        call = {
            "source": source,
            "function": function,
            "args": args,
            "env": env,
            "timeout_s": timeout_s,
            "allow_network": allow_network,
            "return_char_limit": return_char_limit,
            "pip_requirements": list(pip_requirements or ()),
        }
        if (host := await self._free_host()) is None:
            return _failed(function, "no Ray process for tools is there, so the tool was not run")
        host.calls += 1
        answer = host.actor.run.remote(call)
        try:
            return _result(await answer)
        except asyncio.CancelledError:
            ray.cancel(answer)
            raise
        except ray.exceptions.RayError as error:
            self._lost(host)
            gone = f"the Ray process that ran the tool is gone ({type(error).__name__})"
            return _failed(function, f"{gone}; what the tool did until then may have taken effect")
        finally:
            host.calls -= 1

    async def _free_host(self) -> _Host | None:
        """The one that does least and answers: nothing is sent to one that is gone. None: none comes back."""
        ray: Any = importlib.import_module("ray")
        while (host := await self._next_host()) is not None:
            try:
                await host.actor.start.remote()
                return host
            except ray.exceptions.RayError:
                self._lost(host)
        return None

    async def _next_host(self) -> _Host | None:
        there = [host for host in self._hosts if host.back.is_set()]
        if not there and self._hosts:
            waits = [asyncio.ensure_future(host.back.wait()) for host in self._hosts]
            try:
                await asyncio.wait(waits, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            there = [host for host in self._hosts if host.back.is_set()]
        return min(there, key=lambda host: host.calls, default=None)

    def _lost(self, host: _Host) -> None:
        """Ray starts it again; until it answers, it is sent nothing."""
        if host.back.is_set():
            host.back.clear()
            task = asyncio.create_task(_revive(host))
            self._reviving.add(task)
            task.add_done_callback(self._reviving.discard)


async def _revive(host: _Host) -> None:
    ray: Any = importlib.import_module("ray")
    while True:
        try:
            await host.actor.start.remote()
        except ray.exceptions.RayError as error:
            log.warning("a Ray process for tools is gone; waiting for it to come back: %s", type(error).__name__)
            await asyncio.sleep(LOOK_S)
        else:
            host.back.set()
            return


async def _answer(reference: Any) -> Any:
    return await reference


def _failed(function: str, what: str) -> SandboxResult:
    return SandboxResult(status="error", error=f"Error executing function {function}: SandboxError: {what}")
