"""The server's side of a warm worker: one zygote, and slots that run calls one after the other.

A slot's socket is the slot: closing it, for whatever reason, ends everything the call in it started.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import tempfile
from typing import Any

from perdure.tools.sandbox.isolation import (
    INSIDE,
    Plan,
    Surroundings,
    bwrap_command,
    environment,
    id_map,
    python_command,
    worker_settings,
)
from perdure.tools.sandbox.result import IsolationUnavailable, Reply, encoded_request

log = logging.getLogger(__name__)

_CALL = struct.Struct("!dII?")
_REPLY = struct.Struct("!12siQQIIII")
_NOT_BEGUN = b"\0"  # before the request; the supervisor changes it when the tool's process is about to be made
_READ_SIZE = 262_144
_STDERR_LIMIT = 65_536
_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 2.0
_GRACE_S = 5.0


class WorkerGone(Exception):
    """The worker ended before the tool had begun: another one can take the call."""


class WarmWorker:
    """`told`: what the zygote said it can do. `alive` turns False when the zygote ends, by itself or by anyone's hand."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self._process = process
        self._control = control
        self.told: dict[str, Any] = {}
        self.alive = True
        self._free: list[socket.socket] = []

    @classmethod
    async def start(
        cls, plan: Plan, around: Surroundings, limits: dict[str, Any], *, allow_network: bool
    ) -> "WarmWorker":
        """Raises IsolationUnavailable with the reason when it cannot be started this way."""
        control, theirs = socket.socketpair()
        control.setblocking(False)
        settings = worker_settings(plan, around, limits, allow_network=allow_network)
        try:
            process = await _spawn(plan, around, theirs, settings, allow_network)
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
        worker = cls(process, control)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await worker._hear_what_it_can()
        except (TimeoutError, ValueError, OSError) as error:
            reason = _last_words(process) or str(error) or type(error).__name__
            await worker.close()
            raise IsolationUnavailable(reason) from error
        except BaseException:
            await worker.close()
            raise
        asyncio.get_running_loop().add_reader(control, worker._on_control)
        return worker

    async def call(self, request: dict[str, Any], *, timeout_s: float, reply_limit: int) -> Reply:
        """Raises WorkerGone when the worker could not begin it. Cancelling ends the call and all its processes."""
        # the request lies in a file, so that the supervisor need not look at it to pass it on
        encoded = encoded_request(request)
        file = _anonymous_file(_NOT_BEGUN + encoded)
        try:
            slot = await self._send(file, len(encoded), timeout_s, request)
            reply = Reply("lost")
            try:
                async with asyncio.timeout(timeout_s + _GRACE_S):
                    reply = await read_reply(slot, reply_limit)
            except TimeoutError:
                # the supervisor keeps the time; that it did not answer means that it is stuck
                reply = Reply("timeout")
            except ConnectionError:
                pass
            finally:
                if self.alive and reply.outcome not in ("lost", "unprepared", "timeout"):
                    self._free.append(slot)
                else:
                    slot.close()
            if reply.outcome == "lost" and os.pread(file, 1, 0) == _NOT_BEGUN:
                raise WorkerGone
            return reply
        finally:
            os.close(file)

    async def _send(self, request_fd: int, size: int, timeout_s: float, request: dict[str, Any]) -> socket.socket:
        """Give the call to a slot."""
        message = _CALL.pack(timeout_s, request["answer_limit"], size, "async " in request["source"])
        while True:
            slot = self._free.pop() if self._free else await self._new_slot()
            try:
                socket.send_fds(slot, [message], [request_fd])
                return slot
            except OSError:
                slot.close()  # it died while it was idle
            if not self.alive:
                raise WorkerGone

    async def _new_slot(self) -> socket.socket:
        slot, theirs = socket.socketpair()
        slot.setblocking(False)
        with theirs:
            while True:
                try:
                    if not self.alive:
                        raise WorkerGone
                    socket.send_fds(self._control, [b"s"], [theirs.fileno()])
                    return slot
                except BlockingIOError:
                    await asyncio.sleep(0.001)  # more at once than the socket holds
                except OSError as error:
                    self.kill()
                    raise WorkerGone from error

    async def close(self) -> None:
        self._stop_listening()
        deadline = asyncio.get_running_loop().time() + _STOP_TIMEOUT_S
        while self._process.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                self._process.kill()
                self._process.wait()
                break
            await asyncio.sleep(0.01)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def kill(self) -> None:
        self._stop_listening()
        self._process.kill()

    def _stop_listening(self) -> None:
        self.alive = False
        while self._free:
            self._free.pop().close()
        if self._control.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()

    def _on_control(self) -> None:
        """The zygote says nothing after its first line: this is its end of the socket closing."""
        try:
            ended = not self._control.recv(64)
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if ended:
            self.kill()
            log.warning("A tool worker ended by itself (%s); the next call starts another.", self._words_so_far())

    def _words_so_far(self) -> str:
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            return _last_line(os.read(self._process.stderr.fileno(), _STDERR_LIMIT)) or "it gave no reason"
        return "it gave no reason"

    async def _hear_what_it_can(self) -> None:
        loop = asyncio.get_running_loop()
        line = b""
        while not line.endswith(b"\n"):
            data = await loop.sock_recv(self._control, 4096)
            if not data:
                raise ValueError
            line += data
        self.told = json.loads(line)
        if "failed" in self.told:
            raise ValueError(self.told["failed"])


async def _spawn(
    plan: Plan, around: Surroundings, control: socket.socket, settings: str, allow_network: bool
) -> "subprocess.Popen[bytes]":
    # Popen and not asyncio's: bwrap must be the child of this thread, whose end it dies with
    arguments = [str(control.fileno()), settings]
    if plan.isolation == "process":
        command = python_command(around.python, "zygote", str(INSIDE.parent), arguments)
        return _popen(command, (control.fileno(),))
    info_reader, info_writer = os.pipe()
    block_reader, block_writer = os.pipe()
    try:
        command = bwrap_command(
            plan, around, allow_network=allow_network, info_fd=info_writer, block_fd=block_reader, arguments=arguments
        )
        passed = (control.fileno(), info_writer, block_reader) if plan.mapped else (control.fileno(),)
        process = _popen(command, passed)
        os.close(info_writer)
        info_writer = -1
        if plan.mapped:
            try:
                await _map_ids(process, info_reader)
                os.write(block_writer, b"1")
            except (OSError, ValueError, TimeoutError) as error:
                reason = _last_words(process) or f"user ids cannot be mapped: {error}"
                raise IsolationUnavailable(reason) from error
        return process
    except OSError as error:
        raise IsolationUnavailable(f"bubblewrap cannot be started: {error}") from error
    finally:
        for fd in (info_reader, info_writer, block_reader, block_writer):
            if fd >= 0:
                os.close(fd)


def _popen(command: list[str], passed: tuple[int, ...]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        pass_fds=passed,
        env=environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _last_words(process: "subprocess.Popen[bytes]") -> str:
    """End it; the last line it wrote to stderr."""
    process.kill()
    process.wait()
    assert process.stderr is not None
    with process.stderr:
        return _last_line(os.read(process.stderr.fileno(), _STDERR_LIMIT))


def _last_line(output: bytes) -> str:
    text = output.decode("utf-8", "replace").strip()
    return text.splitlines()[-1] if text else ""


async def _map_ids(process: "subprocess.Popen[bytes]", info_reader: int) -> None:
    os.set_blocking(info_reader, False)
    told = b""
    deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
    while b"}" not in told:
        try:
            data = os.read(info_reader, 4096)
            if not data:
                raise ValueError("bubblewrap ended")
            told += data
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError("bubblewrap does not answer") from None
            await asyncio.sleep(0.001)
    pid = json.loads(told)["child-pid"]
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:  # noqa: ASYNC230, PTH123
            file.write(id_map())


def _anonymous_file(data: bytes) -> int:
    """A descriptor of a file with that in it, and no name."""
    if sys.platform == "linux":
        fd = os.memfd_create("call", 0)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
    return fd


async def read_reply(sock: socket.socket, limit: int) -> Reply:
    """Nothing of the sizes in it is believed beyond `limit` bytes in all."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    header: tuple[Any, ...] | None = None
    need = _REPLY.size
    while header is None or len(data) < need:
        chunk = await loop.sock_recv(sock, _READ_SIZE)
        if not chunk:
            return Reply("lost")
        data += chunk
        if header is None and len(data) >= _REPLY.size:
            header = _REPLY.unpack_from(data)
            need += sum(header[-4:])
            if need > limit:
                return Reply("lost")
    outcome, code, dropped_stdout, dropped_stderr, *sizes = header
    parts: list[bytes] = []
    start = _REPLY.size
    for size in sizes:
        parts.append(bytes(data[start : start + size]))
        start += size
    detail, answer, stdout, stderr = parts
    name = outcome.rstrip(b"\0").decode("ascii", "replace")
    return Reply(
        name, code, detail.decode("utf-8", "replace"), answer, stdout, stderr, (dropped_stdout, dropped_stderr)
    )
