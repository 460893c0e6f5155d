"""The processes of one call: how much memory they hold, and their end, all of them, whatever they did to get away."""

# pathlib would be one more thing loaded in every fork
# ruff: noqa: PTH123, PTH208

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

from . import libc

_ROUNDS = 200
_INTERVAL_S = 0.1


def adopt_descendants() -> None:
    """Orphans of this process's descendants become its children, so that they cannot get away by forking twice."""
    if sys.platform == "linux":
        libc.make(libc.prctl("adopt orphans", libc.PR_SET_CHILD_SUBREAPER, 1))


class Census:
    """Counts a call's processes and adds up what they hold.

    `own_namespace`: /proc shows the call's processes and this one, no other.
    """

    def __init__(self, own_namespace: bool) -> None:
        self._own_namespace = own_namespace
        self._next = 0.0
        self._before = _held("self")[0]  # a fork shares this much with its parent until it writes to it

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _INTERVAL_S
        return True

    def take(self) -> tuple[int, int]:
        """Processes, and bytes of memory, where what forks share does not count twice. (0, 0) without /proc."""
        count, private, shared = 0, 0, 0
        for pid in _everyone() if self._own_namespace else _descendants(os.getpid()):
            count += 1
            anonymous, shmem = _held(str(pid))
            private += max(anonymous - self._before, 0)
            shared = max(shared, shmem)
        return count, private + shared


def _held(pid: str) -> tuple[int, int]:
    """Bytes of anonymous and of shared memory resident in a process."""
    found = {"RssAnon": 0, "RssShmem": 0}
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status") as file:  # it may have ended
        for line in file:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found["RssAnon"], found["RssShmem"]


def _everyone() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            yield int(name)


def children(pid: int) -> list[int]:
    text = b""
    try:
        fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY)
        try:
            while more := os.read(fd, 4096):
                text += more
        finally:
            os.close(fd)
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _descendants(child)


def end_all(own_namespace: bool, pid: int, uid: int | None) -> None:
    """Kill every process of the call: its first one is `pid`, its user `uid` if it has one to itself."""
    if own_namespace:
        try:
            os.kill(-1, signal.SIGKILL)  # everyone in the namespace but this process, which is its first
        except ProcessLookupError:
            return  # there is nobody, not even one that has ended and waits to be reaped
        _reap_all()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if uid is not None:
        _end_user(uid)
    end_strays(set())


def _end_user(uid: int) -> None:
    """Only this call runs as `uid`. One sweep by that user gets all of them, even a fork bomb."""
    helper = os.fork()
    if helper == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(helper, 0)


def end_strays(keep: set[int]) -> None:
    """Kill this process's children but `keep`, and theirs as they are inherited, until none is left."""
    for _ in range(_ROUNDS):
        strays = [child for child in children(os.getpid()) if child not in keep]
        if not strays:
            return
        for child in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _reap_all() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
