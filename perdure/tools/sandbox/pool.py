"""Runs tool code for the server: picks the isolation, keeps the warm workers, and bounds what runs at once.

Whatever a tool does, `run` answers with a SandboxResult, and the next call finds a worker as good as new.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from perdure.tools.sandbox.isolation import Isolation, Plan, Surroundings, plans, weaknesses, why_not_strict
from perdure.tools.sandbox.result import CallLimits, IsolationUnavailable, Reply, SandboxResult, result_of
from perdure.tools.sandbox.single import SingleUseWorker
from perdure.tools.sandbox.warm import WarmWorker, WorkerGone

DEFAULT_RETURN_CHAR_LIMIT = 50_000
_BYTES_PER_CHAR = 6  # \u0000
_ROOM = 65_536
_START_ATTEMPTS = 6
_PAUSE_S = 0.02
_TRIAL_TIMEOUT_S = 10.0

Worker = WarmWorker | SingleUseWorker


class Sandbox:
    """Where custom tools run.

    `workers`: how many calls may run at once; more wait their turn. Each call may hold `memory_mb` of memory and `disk_mb` of
    files, run `max_processes` processes, and have `output_limit` bytes of stdout and of stderr kept. `hide`: files and folders
    tools must not see even if they lie where Python does. `preload`: modules a worker imports once, for all calls.

    After `start`: `isolation`, and `warning`, a plain sentence for people if tools are not kept in strictly.
    """

    def __init__(
        self,
        *,
        mode: Literal["auto", "strict", "process"] = "auto",
        timeout_s: float = 60.0,
        workers: int = 16,
        memory_mb: int = 512,
        disk_mb: int = 64,
        max_processes: int = 64,
        output_limit: int = 65_536,
        hide: Sequence[Path] = (),
        preload: Sequence[str] = ("datetime", "random", "urllib.parse", "uuid"),
        python: str = sys.executable,
    ) -> None:
        self._mode = mode
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._max_processes = max_processes
        self._output_limit = output_limit
        self._limits: dict[str, Any] = {
            "memory_mb": memory_mb,
            "disk_mb": disk_mb,
            "max_processes": max_processes,
            "output_limit": output_limit,
            "preload": list(preload),
        }
        self._hide = tuple(hide)
        self._python = python
        self._turns = asyncio.Semaphore(workers)
        self._starting = asyncio.Lock()
        self._plan: Plan | None = None
        self._around: Surroundings | None = None
        self._workers: dict[bool, Worker] = {}
        self.isolation: Isolation = "process"
        self.warning: str | None = None

    async def start(self) -> None:
        """Find the best isolation that works here and warm a worker up. IsolationUnavailable if `mode` cannot be had."""
        if self._plan is not None:
            return
        self._around = Surroundings(python=self._python, home=None, hide=self._hide)
        try:
            await self._choose()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all workers and with them every call."""
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            await worker.close()
        if self._around is not None and self._around.home is not None:
            shutil.rmtree(self._around.home, ignore_errors=True)
        self._plan = self._around = None

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
        """Call one function of a source. Everything that goes wrong in or with the tool is in the result.

        `env` is all of the environment the tool gets, beyond PATH, LANG, HOME and TMPDIR. The time spent waiting for a turn
        does not count. Cancelling ends the call and everything it started.
        """
        limits = CallLimits(timeout_s or self._timeout_s, self._memory_mb, self._max_processes, return_char_limit)
        answer_limit = return_char_limit * _BYTES_PER_CHAR + _ROOM
        request = {
            "source": source,
            "function": function,
            "args": args,
            "env": env,
            "timeout_s": limits.timeout_s,
            "return_char_limit": return_char_limit,
            "answer_limit": answer_limit,
            "allow_network": allow_network,
            "requirements": [_requirement(item) for item in pip_requirements or ()],
        }
        reply_limit = answer_limit + 2 * self._output_limit + _ROOM
        async with self._turns:
            reply = await self._call(request, limits.timeout_s, reply_limit)
        return result_of(reply, function, limits)

    async def _call(self, request: dict[str, Any], timeout_s: float, reply_limit: int) -> Reply:
        for attempt in range(_START_ATTEMPTS):
            try:
                worker = await self._worker(request["allow_network"])
                return await worker.call(request, timeout_s=timeout_s, reply_limit=reply_limit)
            except WorkerGone:
                await asyncio.sleep(_PAUSE_S * attempt)  # nothing of the call has run
            except IsolationUnavailable as error:
                return Reply("unprepared", detail=error.message)
        return Reply("unprepared", detail="its workers end as soon as they start")

    async def _worker(self, allow_network: bool) -> Worker:
        """The warm worker for calls of that kind, a new one if it has died."""
        worker = self._workers.get(allow_network)
        if worker is not None and worker.alive:
            return worker
        async with self._starting:
            worker = self._workers.get(allow_network)
            if worker is not None and worker.alive:
                return worker
            if self._plan is None or self._around is None:
                raise IsolationUnavailable("the sandbox has not been started")
            if worker is not None:
                await worker.close()
            self._workers[allow_network] = worker = await self._new_worker(self._plan, allow_network)
            return worker

    async def _new_worker(self, plan: Plan, allow_network: bool) -> Worker:
        assert self._around is not None
        if not hasattr(os, "fork"):
            return SingleUseWorker(self._around, self._output_limit)
        return await WarmWorker.start(plan, self._around, self._limits, allow_network=allow_network)

    async def _choose(self) -> None:
        wanted = [plan for plan in plans(self._python) if self._mode in ("auto", plan.isolation)]
        reason = why_not_strict() if self._mode != "process" else "that is how the server was configured"
        for plan in wanted:
            if plan.isolation == "process":
                self._make_home()
            try:
                worker = await self._new_worker(plan, False)
            except IsolationUnavailable as error:
                reason = reason or error.message
                continue
            if (failure := await _trial(worker)) is None:
                self._plan, self._workers[False] = plan, worker
                self.isolation = plan.isolation
                self.warning = weaknesses(plan, worker.told, reason or "")
                return
            reason = reason or failure
            await worker.close()
        if self._mode == "strict":
            raise IsolationUnavailable(
                f"Strict tool isolation is not possible here: {reason}. Make it possible, or allow weaker isolation with "
                "PERDURE_TOOL_ISOLATION=auto."
            )
        raise IsolationUnavailable(f"Tool code cannot be run here at all: {reason}.")

    def _make_home(self) -> None:
        """Where calls have their work folders if they have no mounts of their own."""
        assert self._around is not None
        if self._around.home is None:
            home = Path(tempfile.mkdtemp(prefix="perdure-tools-"))
            home.chmod(0o711)  # calls with ids of their own reach their folders in it, and cannot list it
            self._around = msgspec.structs.replace(self._around, home=home)


async def _trial(worker: Worker) -> str | None:
    """Run a harmless call as any other is run: what is wrong, or None."""
    request = {
        "source": "import base64, decimal\ndef trial():\n    return 'ready'\n",
        "function": "trial",
        "args": {},
        "env": {},
        "timeout_s": _TRIAL_TIMEOUT_S,
        "return_char_limit": 100,
        "answer_limit": _ROOM,
        "allow_network": False,
        "requirements": [],
    }
    try:
        reply = await worker.call(request, timeout_s=_TRIAL_TIMEOUT_S, reply_limit=4 * _ROOM)
    except WorkerGone:
        return "a worker ended as soon as it had started"
    result = result_of(reply, "trial", CallLimits(_TRIAL_TIMEOUT_S, 0, 0, 100))
    return None if result.value == "ready" else result.error or "a trial call did not answer as it should"


def _requirement(item: Any) -> str:
    """`name==version` of a pip requirement in its wire shape, {"name", "version"}, or as plain text."""
    if isinstance(item, dict):
        version = item.get("version")
        return f"{item.get('name')}=={version}" if version else str(item.get("name"))
    return str(item)
