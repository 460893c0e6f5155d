"""One slot: runs calls one after the other, each in a fresh fork, and holds each to its limits.

The supervisor is the only one that holds the socket to the server; tool code never does. It is the first process of the slot's
PID namespace, or, without namespaces, the reaper of its descendants: when a call is over, nothing that it started is left. It
never looks into a call: the request is read by the tool's process, and what comes out of that passes through fixed buffers
that are wiped, so the next fork starts from memory in which nothing of this call remains.

A call: from the server, `CALL` (timeout in seconds, longest answer in bytes, whether the source looks asynchronous) with a
descriptor of the request, a file: a byte that is changed once the call has begun, then JSON. Back: 4 bytes length, JSON header
{"outcome", "code", "detail", "sizes": [answer, stdout, stderr], "dropped": [stdout, stderr]}, then the three byte strings.
"""

# pathlib would be one more thing loaded in every fork
# ruff: noqa: PTH102

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import time
from typing import NoReturn

from . import namespaces, processes
from .child import Handover, become_tool
from .confine import Confinement
from .settings import Settings

CALL = struct.Struct("!dI?")
_LENGTH = struct.Struct("!I")
_BEGUN = b"\1"
_WATCH_INTERVAL_S = 0.1
_SEND_TIMEOUT_S = 10.0
_MIB = 1 << 20

Outcome = tuple[str, int]


class _Pipe:
    """Keeps the first bytes of what comes out of a pipe, in memory of its own; counts the rest and throws it away."""

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray(limit)
        self._waste = bytearray(65_536)
        self._limit = limit
        self._kept = 0
        self.dropped = 0
        self.reader = self.writer = -1

    def open(self, limit: int) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self._limit = limit
        if len(self._buffer) < limit:
            self._buffer = bytearray(limit)

    def kept(self) -> memoryview:
        return memoryview(self._buffer)[: self._kept]

    def read_some(self) -> bool:
        """False when nothing more will come."""
        room = memoryview(self._buffer)[self._kept : self._limit]
        try:
            count = os.readv(self.reader, [room, self._waste])
        except BlockingIOError:
            return True
        self._kept += min(count, len(room))
        self.dropped += max(count - len(room), 0)
        return count > 0

    def read_rest(self) -> None:
        """What is still in the pipe. To be called when nobody can write any more."""
        before = -1
        while before != self._kept + self.dropped:
            before = self._kept + self.dropped
            self.read_some()

    def close_and_wipe(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)
        self.reader = self.writer = -1
        self._buffer[: self._kept] = bytes(self._kept)
        if self.dropped:
            self._waste[:] = bytes(len(self._waste))
        self._kept = self.dropped = 0


def supervise(fd: int, settings: Settings, uids: "tuple[int, int] | None") -> NoReturn:
    """Serve the calls that come in on `fd` until the server closes it. Runs in a fork of the zygote."""
    server = socket.socket(fileno=fd)
    try:
        server.settimeout(_SEND_TIMEOUT_S)
        _Slot(server, settings, uids).serve()
    except Exception as error:
        with contextlib.suppress(OSError):
            send_reply(server, ("unprepared", 0), f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)


def send_reply(
    server: socket.socket,
    outcome: Outcome,
    detail: str = "",
    parts: "tuple[memoryview | bytes, ...]" = (b"", b"", b""),
    dropped: "tuple[int, int]" = (0, 0),
) -> None:
    header = {
        "outcome": outcome[0],
        "code": outcome[1],
        "detail": detail,
        "sizes": [len(part) for part in parts],
        "dropped": dropped,
    }
    encoded = json.dumps(header).encode()
    left = [memoryview(_LENGTH.pack(len(encoded)) + encoded), *(memoryview(part) for part in parts if len(part))]
    while left:
        # never joined: a copy would stay in memory, where the next call could find it
        sent = server.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if left:
            left[0] = left[0][sent:]


def _wake(_number: int, _frame: object) -> None:
    """A signal without a handler wakes nobody; the wake-up descriptor does the rest."""


class _Slot:
    def __init__(self, server: socket.socket, settings: Settings, uids: "tuple[int, int] | None") -> None:
        self._server = server
        self._settings = settings
        self._uids = uids
        self._calls = 0
        self._stdout = _Pipe(settings.output_limit)
        self._stderr = _Pipe(settings.output_limit)
        self._answer = _Pipe(0)
        self._pid = 0
        self._wake, wake_writer = os.pipe()
        for fd in (self._wake, wake_writer):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, _wake)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        self._mounts: namespaces.Mounts | None = None
        if settings.namespaces:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(
                    name, signal.SIG_DFL
                )  # which the first process of a namespace does not get from within it
            self._mounts = namespaces.Mounts(settings.home, settings.disk_mb, own_users=uids is not None)
        else:
            processes.adopt_descendants()
        self._handover = Handover()
        self._confinement = Confinement(settings)
        gc.freeze()

    def serve(self) -> None:
        while True:
            self._server.settimeout(None)
            data, fds, _, _ = socket.recv_fds(self._server, CALL.size, 1)
            if len(data) != CALL.size or len(fds) != 1:
                return
            self._server.settimeout(_SEND_TIMEOUT_S)
            timeout_s, answer_limit, is_async = CALL.unpack(data)
            if is_async:
                importlib.import_module("asyncio")  # slow to load: once here, and not in every call
            if not self._run(fds[0], timeout_s, answer_limit):
                return

    def _run(self, request: int, timeout_s: float, answer_limit: int) -> bool:
        """One call. False when the server gave it up, and with it this slot."""
        uid = self._next_uid()
        work_dir = self._make_room(uid)
        self._stdout.open(self._settings.output_limit)
        self._stderr.open(self._settings.output_limit)
        self._answer.open(answer_limit)
        pipes = (self._stdout, self._stderr, self._answer)
        self._confinement.prepare(uid, work_dir, timeout_s)
        os.pwrite(request, _BEGUN, 0)
        self._pid = os.fork()
        if self._pid == 0:
            self._server.detach()
            writers = (self._stdout.writer, self._stderr.writer, self._answer.writer)
            become_tool(self._handover, self._confinement, request, writers)
        os.close(request)
        for pipe in pipes:
            os.close(pipe.writer)
            pipe.writer = -1
        outcome = self._watch(timeout_s)
        processes.end_all(self._settings.namespaces, self._pid, uid)
        if outcome is not None:
            for pipe in pipes:
                pipe.read_rest()
            try:
                self._reply(outcome)
            except OSError:
                outcome = None  # the server does not listen any more; half a reply cannot be followed by another
        for pipe in pipes:
            pipe.close_and_wipe()
        self._clear_room(work_dir)
        return outcome is not None

    def _reply(self, outcome: Outcome) -> None:
        answer = self._answer.kept()
        if self._answer.dropped:
            outcome, answer = ("flooded", 0), answer[:0]
        parts = (answer, self._stdout.kept(), self._stderr.kept())
        send_reply(self._server, outcome, parts=parts, dropped=(self._stdout.dropped, self._stderr.dropped))

    def _next_uid(self) -> "int | None":
        self._calls += 1
        if self._uids is None:
            return None
        first, count = self._uids
        return first + self._calls % count

    def _make_room(self, uid: "int | None") -> str:
        """The call's own empty folder."""
        if self._mounts is not None:
            return self._settings.home
        work_dir = f"{self._settings.home}/{os.getpid()}-{self._calls}"
        os.mkdir(work_dir, 0o700)
        if uid is not None:
            os.chown(work_dir, uid, uid)
        return work_dir

    def _clear_room(self, work_dir: str) -> None:
        if self._mounts is not None:
            if self._mounts.make_empty():
                self._confinement.forget()
            if not self._settings.seccomp:
                namespaces.drop_ipc_objects()  # which the filter lets nobody make
        else:
            self._confinement.forget()
            import shutil  # loads much, and strict isolation has no use for it

            shutil.rmtree(work_dir, ignore_errors=True)

    def _watch(self, timeout_s: float) -> "Outcome | None":
        """Until the tool's process ends or must end: how; None when the server gave the call up."""
        poll = select.poll()
        pipes = {pipe.reader: pipe for pipe in (self._stdout, self._stderr, self._answer)}
        for fd in (*pipes, self._wake, self._server.fileno()):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        census: processes.Census | None = None
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout", 0
            ready = poll.poll(min(left, _WATCH_INTERVAL_S) * 1000 + 1)
            if not ready:
                census = census or processes.Census(self._settings.namespaces)
            if census is not None and census.is_due():
                count, memory = census.take()
                if memory > self._settings.memory_mb * _MIB:
                    return "memory", 0
                if count > self._settings.max_processes:
                    return "processes", 0  # RLIMIT_NPROC does not hold for everybody, root least of all
            for fd, _ in ready:
                if fd == self._server.fileno():
                    return None  # it sends nothing while a call runs: this is its end of the socket closing
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    if (status := self._reap()) is not None:
                        code = os.waitstatus_to_exitcode(status)
                        return ("signal", -code) if code < 0 else ("exit", code)
                elif not pipes[fd].read_some():
                    poll.unregister(fd)

    def _reap(self) -> "int | None":
        """The status of the tool's process, if it has ended. Orphans of the call are buried here too."""
        found: int | None = None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._pid:
                    found = status
        return found
