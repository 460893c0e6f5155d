"""System calls Python does not wrap, each raising OSError like the rest of `os`. Linux only at call time, importable anywhere."""

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_SYS_ADMIN = 21

_CAPABILITY_VERSION_3 = 0x20080522

_libc: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def _checked(what: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


class Call(NamedTuple):
    """A call with its arguments converted beforehand, to be made after a fork with as little work as can be."""

    what: str
    function: Callable[..., int]
    arguments: tuple[object, ...]


def make(*calls: Call) -> int:
    """Make them in this order; the result of the last. OSError at the first that fails."""
    result = 0
    for what, function, arguments in calls:
        result = function(*arguments)
        if result < 0:
            _checked(what, result)
    return result


def syscall(what: str, number: int, *args: object) -> Call:
    if _libc is None or sys.platform != "linux":
        raise OSError(f"{what}: only Linux has it")
    # a bare Python int would be passed as a 32-bit C int
    ready = (ctypes.c_long(number), *(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    return Call(what, _libc.syscall, ready)


def prctl(what: str, option: int, *args: object) -> Call:
    if _libc is None or sys.platform != "linux":
        raise OSError(f"{what}: only Linux has it")
    wide = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    return Call(what, _libc.prctl, (ctypes.c_int(option), *wide, *([ctypes.c_ulong(0)] * (4 - len(wide)))))


def chdir(path: str) -> Call:
    assert _libc is not None
    return Call(f"work in {path}", _libc.chdir, (os.fsencode(path),))


def unshare(flags: int) -> None:
    assert _libc is not None
    _checked("unshare", _libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    assert _libc is not None
    _checked("setns", _libc.setns(fd, kind))


def mount(kind: str, target: str, flags: int, options: str = "") -> None:
    assert _libc is not None
    name = kind.encode()
    _checked(
        f"mount {kind} on {target}", _libc.mount(name, target.encode(), name, ctypes.c_ulong(flags), options.encode())
    )


def unmount(target: str) -> None:
    assert _libc is not None
    _checked(f"unmount {target}", _libc.umount2(target.encode(), 0))


def set_capabilities(*capabilities: int) -> Call:
    """Exactly these as permitted and effective, and none inheritable."""
    assert _libc is not None
    bits = sum(1 << capability for capability in capabilities)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    return Call("capset", _libc.capset, (header, struct.pack("=6I", low, low, 0, high, high, 0)))


def clear_ambient_capabilities() -> None:
    make(prctl("clear ambient capabilities", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL))


def drop_bounding_set() -> None:
    """No program this process executes can gain a capability. Needs CAP_SETPCAP; without it there is nothing to do."""
    for capability in range(64):
        try:
            make(prctl("drop from the bounding set", PR_CAPBSET_DROP, capability))
        except OSError:
            return  # past the last capability the kernel has, or not permitted
