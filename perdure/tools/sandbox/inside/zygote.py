"""The warm process of a sandbox: it stays as it was when it started, and forks a supervisor for each slot.

It never sees a call, so nothing of one call can reach the next through it. It ends when the server's end of the control
socket closes.

Control socket: the zygote first says what it can do, one line of JSON; after that, each byte from the server carries the
descriptor of one slot's socket.
"""

# pathlib would be one more thing loaded in every fork
# ruff: noqa: PTH116, PTH208

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import sys
from typing import Any, NoReturn

from . import descriptors, execute, landlock, libc, namespaces, processes, seccomp
from .settings import Settings
from .supervisor import send_reply, supervise

_ZYGOTE_UID = 1
_UIDS_PER_SLOT = 32
_OTHERS_OF_THE_SANDBOX = 256  # processes of other calls, which are this user's too
_PRIVATE_MODULES = __name__.rpartition(".")[0]


def main() -> NoReturn:
    control = descriptors.opened(int(sys.argv[1]))
    settings = Settings.load(sys.argv[2])
    os.closerange(control.fileno() + 1, 65_536)
    os.closerange(3, control.fileno())
    try:
        zygote = _Zygote(control, settings)
    except OSError as error:
        control.sendall(json.dumps({"failed": str(error)}).encode() + b"\n")
        sys.exit(1)
    zygote.serve()


class _Zygote:
    def __init__(self, control: descriptors.Socket, settings: Settings) -> None:
        self._control = control
        self._own_uids = settings.uids
        self._slots = 0
        self._supervisors: set[int] = set()
        self._pid_namespaces: namespaces.PidNamespaces | None = None
        if settings.namespaces:
            if settings.uids is not None:
                namespaces.gain_own_ids(_ZYGOTE_UID)
            namespaces.limit_capabilities()
            self._pid_namespaces = namespaces.PidNamespaces()
            # bubblewrap had asked for this, but a change of ids undoes it
            libc.make(libc.prctl("end with bubblewrap", libc.PR_SET_PDEATHSIG, signal.SIGKILL))
        else:
            processes.adopt_descendants()
        if sys.platform == "linux":
            libc.drop_bounding_set()
            libc.make(libc.prctl("keep capabilities no more", libc.PR_SET_KEEPCAPS, 0))
            libc.make(libc.prctl("not dumpable", libc.PR_SET_DUMPABLE, 0))
        filter_program = seccomp.program(settings.allow_network) if sys.platform == "linux" else None
        self._settings = settings._replace(
            landlock=landlock.abi(),
            seccomp=None if filter_program is None else filter_program.hex(),
            nproc_limit=_process_limit(settings),
        )
        _load(settings.preload)
        _warm_up()
        told: dict[str, Any] = {"landlock": self._settings.landlock, "seccomp": filter_program is not None}
        control.sendall(json.dumps(told).encode() + b"\n")

    def serve(self) -> NoReturn:
        wake_reader, wake_writer = os.pipe()
        for fd in (wake_reader, wake_writer):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, _wake)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_reader, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wake_reader:
                    os.read(wake_reader, 4096)
                    self._reap()
                    continue
                data, slot = descriptors.receive(self._control, 1)
                if not data:
                    self._end()
                if slot >= 0:
                    self._start(slot)
                    os.close(slot)

    def _start(self, slot: int) -> None:
        uids = self._some_uids()
        try:
            pid = self._pid_namespaces.fork() if self._pid_namespaces else os.fork()
        except OSError as error:
            server = descriptors.opened(os.dup(slot))
            with contextlib.suppress(OSError):
                server.setblocking(False)
                send_reply(server, ("unprepared", 0), f"no process for the call: {error}".encode())
            server.close()
            return
        if pid == 0:
            signal.set_wakeup_fd(-1)
            mine = os.dup2(slot, 3) if slot != 3 else 3
            os.closerange(4, 65_536)
            supervise(mine, self._settings, uids)
        self._supervisors.add(pid)

    def _some_uids(self) -> "tuple[int, int] | None":
        """Ids for the calls of one slot, that no other slot living now has."""
        if self._own_uids is None:
            return None
        first, count = self._own_uids
        self._slots += 1
        return first + self._slots * _UIDS_PER_SLOT % (count - _UIDS_PER_SLOT), _UIDS_PER_SLOT

    def _reap(self) -> None:
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._supervisors.discard(pid)
            ended = ended or status != 0
        if ended and not self._settings.namespaces:
            processes.end_strays(self._supervisors)  # a supervisor that was killed leaves its processes to us

    def _end(self) -> NoReturn:
        for pid in self._supervisors:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        processes.end_strays(set())
        os._exit(0)


def _wake(_number: int, _frame: object) -> None:
    """A signal without a handler wakes nobody; the wake-up descriptor does the rest."""


def _process_limit(settings: Settings) -> int:
    """RLIMIT_NPROC counts a user's processes, so where calls have no user of their own the others' are added."""
    if settings.uids is not None or sys.platform != "linux":
        return settings.max_processes
    if settings.namespaces:
        return settings.max_processes + _OTHERS_OF_THE_SANDBOX
    running, me = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == me:
                    running += len(os.listdir(f"/proc/{name}/task"))
    return settings.max_processes + running


def _load(names: list[str]) -> None:
    """Import them; `random` with a cheaper way to be seeded in every fork: its own runs much Python code, this one none."""
    register = os.register_at_fork

    def register_others(**hooks: Any) -> None:
        if getattr(hooks.get("after_in_child"), "__module__", None) != "random":
            register(**hooks)

    os.register_at_fork = register_others
    try:
        for name in names:
            with contextlib.suppress(ImportError):  # a convenience: the tool that needs it will be told
                importlib.import_module(name)
    finally:
        os.register_at_fork = register
    if (random := sys.modules.get("random")) is not None:
        from _random import Random

        generator: Any = random.__dict__["_inst"]  # the one that the module's functions use
        register(after_in_child=functools.partial(Random.seed, generator))
        register(after_in_child=functools.partial(setattr, generator, "gauss_next", None))


def _warm_up() -> None:
    execute.warm_up()
    # tool code finds this folder neither on the path nor among the loaded modules
    sys.path[:] = sys.path[1:]
    for name in [name for name in sys.modules if name.split(".")[0] == _PRIVATE_MODULES.split(".")[0]]:
        del sys.modules[name]
    sys.argv[:] = [""]
    gc.collect()
    gc.freeze()
