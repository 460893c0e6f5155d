"""One slot: runs calls one after the other, each in a fresh fork, and holds each to its limits.

The supervisor is the only one that holds the socket to the server; tool code never does. It is the first process of the slot's
PID namespace, or, without namespaces, the reaper of its descendants: when a call is over, nothing that it started is left. It
never looks into a call: the request is read by the tool's process, and what comes out of that passes through fixed buffers
that are wiped, so the next fork starts from memory in which nothing of this call remains.

A call: from the server, `CALL` (timeout in seconds, longest answer in bytes, length of the request, whether the source looks
asynchronous) with a descriptor of the request, a file: a byte that is changed once the call has begun, then JSON. Back: `REPLY`
(outcome and its code, bytes dropped of stdout and of stderr, sizes of what follows), then the detail, the answer, stdout and
stderr.

What runs here between two forks touches as few objects as can be: each page of memory touched has to be copied, because the
fork shares it, and that is most of what a call costs.
"""

# pathlib would be one more thing loaded in every fork
# ruff: noqa: PTH102, PTH106

import contextlib
import gc
import importlib
import os
import select
import signal
import struct
import time
from typing import NoReturn

from . import descriptors, namespaces, processes
from .child import Handover, become_tool
from .confine import Confinement
from .settings import Settings

CALL = struct.Struct("!dII?")
REPLY = struct.Struct("!12siQQIIII")
_BEGUN = b"\1"
_WATCH_INTERVAL_S = 0.1
_SEND_TIMEOUT_S = 10
_MIB = 1 << 20

Outcome = tuple[str, int]


class _Pipe:
    """Keeps the first bytes of what comes out of a pipe, in memory of its own; counts the rest and throws it away."""

    def __init__(self, limit: int) -> None:
        self._buffer = memoryview(bytearray(limit))
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
            self._buffer = memoryview(bytearray(limit))

    def kept(self) -> "memoryview | bytes":
        return self._buffer[: self._kept] if self._kept else b""

    def read_some(self) -> int:
        """How many bytes came; 0 when nothing more will."""
        room = self._buffer[self._kept : self._limit]
        try:
            count = os.readv(self.reader, (room, self._waste))
        except BlockingIOError:
            return 0
        if count > len(room):
            self.dropped += count - len(room)
            self._kept = self._limit
        else:
            self._kept += count
        return count

    def read_rest(self) -> None:
        """What is still in the pipe. To be called when nobody else can write any more."""
        os.close(self.writer)
        self.writer = -1
        while self.read_some():
            pass

    def close_and_wipe(self) -> None:
        os.close(self.reader)
        if self.writer >= 0:
            os.close(self.writer)
        if self._kept:
            self._buffer[: self._kept] = bytes(self._kept)
        if self.dropped:
            self._waste[:] = bytes(len(self._waste))
        self._kept = self.dropped = 0


def supervise(fd: int, settings: Settings, uids: "tuple[int, int] | None") -> NoReturn:
    """Serve the calls that come in on `fd` until the server closes it. Runs in a fork of the zygote."""
    server = descriptors.opened(fd)
    try:
        descriptors.limit_sending(server, _SEND_TIMEOUT_S)
        _Slot(server, settings, uids).serve()
    except Exception as error:
        with contextlib.suppress(OSError):
            send_reply(server, ("unprepared", 0), f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)


def send_reply(
    server: descriptors.Socket,
    outcome: Outcome,
    detail: bytes = b"",
    answer: "memoryview | bytes" = b"",
    stdout: "memoryview | bytes" = b"",
    stderr: "memoryview | bytes" = b"",
    dropped: "tuple[int, int]" = (0, 0),
) -> None:
    sizes = len(detail), len(answer), len(stdout), len(stderr)
    header = REPLY.pack(outcome[0].encode(), outcome[1], *dropped, *sizes)
    # never joined: a copy would stay in memory, where the next call could find it
    sent = server.sendmsg((header, detail, answer, stdout, stderr))
    if sent == len(header) + sum(sizes):
        return
    left = [memoryview(part) for part in (header, detail, answer, stdout, stderr)]
    while True:
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if not left:
            return
        left[0] = left[0][sent:]
        sent = server.sendmsg(left)


def _wake(_number: int, _frame: object) -> None:
    """A signal without a handler wakes nobody; the wake-up descriptor does the rest."""


class _Slot:
    def __init__(self, server: descriptors.Socket, settings: Settings, uids: "tuple[int, int] | None") -> None:
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
        self._poll = select.poll()
        self._polled = (-1, -1, -1)
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
            data, request = descriptors.receive(self._server, CALL.size)
            if len(data) != CALL.size or request < 0:
                return
            timeout_s, answer_limit, size, is_async = CALL.unpack(data)
            if is_async:
                importlib.import_module("asyncio")  # slow to load: once here, and not in every call
            if not self._run(request, size, timeout_s, answer_limit):
                return

    def _run(self, request: int, size: int, timeout_s: float, answer_limit: int) -> bool:
        """One call. False when the server gave it up, and with it this slot."""
        stdout, stderr, answer = pipes = self._stdout, self._stderr, self._answer
        self._calls += 1
        uid: int | None = None
        if self._uids is not None:
            uid = self._uids[0] + self._calls % self._uids[1]
        work_dir = self._settings.home if self._mounts is not None else self._make_room(uid)
        stdout.open(self._settings.output_limit)
        stderr.open(self._settings.output_limit)
        answer.open(answer_limit)
        self._handover.set_home(work_dir)
        self._confinement.prepare(uid, work_dir, timeout_s)
        os.pwrite(request, _BEGUN, 0)
        self._pid = os.fork()
        if self._pid == 0:
            become_tool(self._confinement, request, size, stdout.writer, stderr.writer, answer.writer)
        os.close(request)
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
        stdout, stderr, answer = self._stdout, self._stderr, self._answer.kept()
        if self._answer.dropped:
            outcome, answer = ("flooded", 0), b""
        dropped = stdout.dropped, stderr.dropped
        send_reply(self._server, outcome, b"", answer, stdout.kept(), stderr.kept(), dropped)

    def _make_room(self, uid: "int | None") -> str:
        """The call's own empty folder."""
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
            try:
                os.rmdir(work_dir)
            except OSError:
                import shutil  # loads much, and most calls leave no file

                shutil.rmtree(work_dir, ignore_errors=True)

    def _watch(self, timeout_s: float) -> "Outcome | None":
        """Until the tool's process ends or must end: how; None when the server gave the call up."""
        stdout, stderr, answer = self._stdout, self._stderr, self._answer
        readers = stdout.reader, stderr.reader, answer.reader
        if readers != self._polled:  # a call's pipes mostly get the numbers of the last one's
            self._polled = readers
            self._poll = select.poll()
            for fd in (*readers, self._wake, self._server.fileno()):
                self._poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        census: processes.Census | None = None
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout", 0
            ready = self._poll.poll(min(left, _WATCH_INTERVAL_S) * 1000 + 1)
            if not ready:
                census = census or processes.Census(self._settings.namespaces)
            if census is not None and census.is_due():
                count, memory = census.take()
                if memory > self._settings.memory_mb * _MIB:
                    return "memory", 0
                if count > self._settings.max_processes:
                    return "processes", 0  # RLIMIT_NPROC does not hold for everybody, root least of all
            for fd, _ in ready:
                if fd == answer.reader:
                    answer.read_some()
                elif fd == stdout.reader:
                    stdout.read_some()
                elif fd == stderr.reader:
                    stderr.read_some()
                elif fd == self._wake:
                    os.read(fd, 4096)
                    if (status := self._reap()) is not None:
                        code = os.waitstatus_to_exitcode(status)
                        return ("signal", -code) if code < 0 else ("exit", code)
                else:
                    return None  # the server sends nothing while a call runs: this is its end of the socket closing

    def _reap(self) -> "int | None":
        """The status of the tool's process, if it has ended. Orphans of the call are buried here too."""
        found: int | None = None
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return found
                if pid == self._pid:
                    found = status
        except ChildProcessError:
            return found
