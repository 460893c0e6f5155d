"""The last steps before tool code runs: everything here is given up for good, and any failure stops the call.

What can be prepared is prepared in the supervisor, whose memory is already its own: a page first touched after a fork costs
more than the work done in it.
"""

# pathlib would be one more thing loaded in every fork
# ruff: noqa: PTH123

import contextlib
import math
import os
import signal
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

from . import landlock, libc, seccomp
from .settings import Settings

_MIB = 1 << 20
_ADDRESS_SPACE_FACTOR = 4
_MAX_FILES = 256
_NICENESS = 5  # a tool that takes all the CPU it can get leaves the server the larger share
_LINUX = sys.platform == "linux"


class Confinement:
    """`prepare` in the supervisor, then `enter` in the fork that will run tool code. `forget` when the work folder changes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._filter = seccomp.Filter(bytes.fromhex(settings.seccomp)) if settings.seccomp else None
        self._ruleset = -1
        self._uid: int | None = None
        self._own_limits: list[tuple[int, tuple[int, int]]] = []
        self._timeout_s = 0.0
        self._steps: list[libc.Call] = []
        self.work_dir = ""
        _limit_resources(settings)
        if settings.uids is not None:
            os.setgroups([])
        if _LINUX:
            _expect_to_be_killed_first()
            libc.clear_ambient_capabilities()
            libc.make(libc.prctl("no new privileges", libc.PR_SET_NO_NEW_PRIVS, 1))

    def prepare(self, uid: int | None, work_dir: str, timeout_s: float) -> None:
        """What was made for the call before is kept where it fits this one. A ruleset stands until `forget`: it names the
        work folder itself, not its path."""
        self._uid = uid
        if timeout_s != self._timeout_s:
            self._timeout_s = timeout_s
            cpu_s = math.ceil(timeout_s) + 1
            nproc = self._settings.nproc_limit
            self._own_limits = [*_possible("RLIMIT_CPU", cpu_s, cpu_s + 1), *_possible("RLIMIT_NPROC", nproc, nproc)]
        self.work_dir = work_dir
        if not self._steps:
            if self._settings.landlock:
                self._ruleset = landlock.ruleset(
                    self._settings.landlock,
                    self._settings.readable,
                    [*self._settings.writable, work_dir],
                    self._settings.allow_network,
                )
            self._steps = self._last_steps()

    def _last_steps(self) -> list[libc.Call]:
        steps = [libc.chdir(self.work_dir)]
        if not _LINUX:
            return steps
        # dumpable, so that its /proc/self is its own; RLIMIT_CORE stops the dumps
        steps += [libc.set_capabilities(), libc.prctl("dumpable", libc.PR_SET_DUMPABLE, 1)]
        if not self._settings.namespaces:
            steps.append(libc.prctl("end with the supervisor", libc.PR_SET_PDEATHSIG, signal.SIGKILL))
        if self._ruleset >= 0:
            steps.append(landlock.restriction(self._ruleset))
        if self._filter is not None:
            steps.append(self._filter.installation)
        return steps

    def forget(self) -> None:
        """The work folder is another from now on."""
        self._steps = []
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1

    def enter(self) -> None:
        if self._uid is not None:
            os.setresgid(self._uid, self._uid, self._uid)
            os.setresuid(self._uid, self._uid, self._uid)
        if resource is not None:
            os.nice(_NICENESS)
            for kind, limits in self._own_limits:
                resource.setrlimit(kind, limits)
        libc.make(*self._steps)


def _limit_resources(settings: Settings) -> None:
    """The limits that the supervisor can live with itself; every call inherits them."""
    memory = settings.memory_mb * _MIB
    disk = settings.disk_mb * _MIB
    # 1 and not 0: a core_pattern that is a pipe is run as root whatever the limit, except where it is 1
    core = 1 if _LINUX else 0
    _limit("RLIMIT_CORE", core, core)
    _limit("RLIMIT_NOFILE", _MAX_FILES, _MAX_FILES)
    _limit("RLIMIT_FSIZE", disk, disk)
    _limit("RLIMIT_DATA", memory, memory)
    # addresses are not memory (thread arenas, mapped files), so this is only the backstop
    _limit("RLIMIT_AS", memory * _ADDRESS_SPACE_FACTOR, memory * _ADDRESS_SPACE_FACTOR)
    _limit("RLIMIT_MSGQUEUE", 0, 0)
    _limit("RLIMIT_MEMLOCK", 65_536, 65_536)


def _limit(name: str, soft: int, hard: int) -> None:
    for kind, limits in _possible(name, soft, hard):
        try:
            resource.setrlimit(kind, limits)  # pyright: ignore[reportOptionalMemberAccess]
        except (OSError, ValueError):
            if _LINUX:
                raise  # elsewhere a limit the system does not keep is no reason to refuse the call


def _possible(name: str, soft: int, hard: int) -> list[tuple[int, tuple[int, int]]]:
    """The limit as far as this system has it and allows it: one entry or none."""
    if resource is None or (kind := getattr(resource, name, None)) is None:
        return []
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    return [(kind, (soft, hard))]


def _expect_to_be_killed_first() -> None:
    """When the machine runs out of memory, the kernel is to take the tool and not the server."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # some have no /proc to say it in
        file.write("1000")
