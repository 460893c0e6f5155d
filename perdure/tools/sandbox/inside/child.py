"""The fork that runs tool code: what it takes along from its supervisor, what it closes, how it answers."""

import contextlib
import io
import json
import os
import signal
import sys
from typing import NoReturn

from . import execute
from .confine import Confinement

_REQUEST_START = 1
_ANSWER_FD = 3
_FIRST_SPARE_FD = 4
_MAX_FD = 65_536


class Handover:
    """What can be made ready once for all calls of a slot: streams on descriptors 1 and 2, and an empty standard input."""

    def __init__(self) -> None:
        self.null = os.open(os.devnull, os.O_RDONLY)
        for name, fd in (("stdout", 1), ("stderr", 2)):
            raw = io.FileIO(fd, "wb", closefd=False)
            stream = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=fd == 2
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        os.environ.clear()
        os.environ.update({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})


def become_tool(
    handover: Handover, confinement: Confinement, request: int, writers: "tuple[int, int, int]"
) -> NoReturn:
    """Give everything else up, run the request, write the answer as the last thing."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        try:
            confinement.enter()
        except Exception as error:
            _write(writers[2], json.dumps({"unprepared": f"{type(error).__name__}: {error}"}).encode())
            os._exit(1)
        text = _read(request)
        _keep_only(handover.null, *writers)
        os.environ["HOME"] = os.environ["TMPDIR"] = confinement.work_dir
        _write(_ANSWER_FD, execute.answer(text))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the tool may have closed it
                stream.flush()
        code = 0
    finally:
        os._exit(code)


def _keep_only(*fds: int) -> None:
    """Put these on descriptors 0, 1, 2 and 3 and close every other."""
    # out of the way of 0..3 first, so that no dup2 closes one that is still to come
    moved = [fd if fd > _ANSWER_FD else os.dup(fd) for fd in fds]
    while any(fd <= _ANSWER_FD for fd in moved):
        moved = [fd if fd > _ANSWER_FD else os.dup(fd) for fd in moved]
    for at, fd in enumerate(moved):
        os.dup2(fd, at, inheritable=at != _ANSWER_FD)
    os.closerange(_FIRST_SPARE_FD, _MAX_FD)


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, _REQUEST_START)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
