"""A worker for systems that cannot fork: every call is a fresh Python, with what limits such a system has (a clock)."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from perdure.tools.sandbox.isolation import INSIDE, Surroundings, python_command
from perdure.tools.sandbox.result import Reply, encoded_request

_READ_SIZE = 65_536


class SingleUseWorker:
    """Has the calls of WarmWorker, so that the pool need not tell them apart."""

    alive = True
    told: dict[str, Any] = {}  # noqa: RUF012  it can do nothing

    def __init__(self, around: Surroundings, output_limit: int) -> None:
        self._around = around
        self._output_limit = output_limit

    async def call(self, request: dict[str, Any], *, timeout_s: float, reply_limit: int) -> Reply:
        work_dir = Path(tempfile.mkdtemp(dir=self._around.home))
        answer_path = work_dir / "answer.json"
        process = await asyncio.create_subprocess_exec(
            *python_command(self._around.python, "once", str(INSIDE.parent), [str(answer_path)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(work_dir),
            cwd=work_dir,
            start_new_session=os.name == "posix",
        )
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            async with asyncio.timeout(timeout_s):
                stdout, stderr, _ = await asyncio.gather(
                    _keep(process.stdout, self._output_limit),
                    _keep(process.stderr, self._output_limit),
                    _feed(process.stdin, encoded_request(request)),
                )
                code = await process.wait()
            answer = _read_up_to(answer_path, reply_limit)
        except TimeoutError:
            return Reply("timeout")
        finally:
            await _end(process)
            shutil.rmtree(work_dir, ignore_errors=True)
        if answer is None:
            return Reply("flooded")
        dropped = (stdout[1], stderr[1])
        return Reply("signal" if code < 0 else "exit", abs(code), "", answer, stdout[0], stderr[0], dropped)

    async def close(self) -> None:
        """Its calls end with whoever waits for them."""


def _environment(work_dir: Path) -> dict[str, str]:
    # Windows cannot start Python without SYSTEMROOT
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    return {**kept, "PATH": os.defpath, "LANG": "C.UTF-8", "TEMP": str(work_dir), "TMP": str(work_dir)}


async def _keep(stream: asyncio.StreamReader, limit: int) -> tuple[bytes, int]:
    kept = bytearray()
    dropped = 0
    while data := await stream.read(_READ_SIZE):
        room = max(limit - len(kept), 0)
        kept += data[:room]
        dropped += max(len(data) - room, 0)
    return bytes(kept), dropped


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        stream.write(data)
        await stream.drain()
        stream.close()


def _read_up_to(path: Path, limit: int) -> bytes | None:
    """The answer, b"" if the tool left none, None if it is longer than an answer can be."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError:
        return b""
    return data if len(data) <= limit else None


async def _end(process: asyncio.subprocess.Process) -> None:
    if sys.platform == "win32":
        if process.returncode is None:
            killer = await asyncio.create_subprocess_exec(
                "taskkill", "/F", "/T", "/PID", str(process.pid), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            await killer.wait()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, 9)
    await process.wait()
