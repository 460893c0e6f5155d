"""The fork that runs tool code: what it takes along from its supervisor, what it closes, how it answers."""

import io
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
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        for name, fd in (("stdout", 1), ("stderr", 2)):
            raw = io.FileIO(fd, "wb", closefd=False)
            stream = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=fd == 2
            )
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        os.environ.clear()
        os.environ.update({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})
        self._home = ""

    def set_home(self, work_dir: str) -> None:
        if work_dir != self._home:
            self._home = os.environ["HOME"] = os.environ["TMPDIR"] = work_dir


def become_tool(
    confinement: Confinement, request: int, request_size: int, stdout: int, stderr: int, answer: int
) -> NoReturn:
    """Give everything else up, run the request, write the answer as the last thing.

    The descriptors lie beyond `_ANSWER_FD`, because the supervisor has all up to that one in use.
    """
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        try:
            confinement.enter()
        except Exception as error:
            _write(answer, execute.unprepared(error))
            os._exit(1)
        text = os.pread(request, request_size, _REQUEST_START)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.dup2(answer, _ANSWER_FD, False)  # not inheritable
        os.closerange(_FIRST_SPARE_FD, _MAX_FD)
        _write(_ANSWER_FD, execute.answer(text))
        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105  `suppress` is more code in every call
                stream.flush()
            except Exception:  # the tool may have closed it
                pass
        code = 0
    finally:
        os._exit(code)


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
