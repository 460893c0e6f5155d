"""A seccomp filter for tool code: no new namespaces, mounts, tracing, kernel keyrings, System V objects or odd socket families.

Defence in depth: namespaces, credentials and Landlock hold without it, but it keeps kernel features that tools never need
out of reach, and it is what takes the network away where there is no network namespace.
Source of the instruction set: linux/filter.h, linux/seccomp.h; of the numbers: the kernel's system call tables.
"""

import _socket
import ctypes
import errno
import os
import struct
import sys

from . import libc

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit number, column in the tables below

# (x86_64, aarch64); None: the architecture has no such call
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
}
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET} and CLONE_NEWNS
_X32_BIT = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def _refuse(code: int) -> int:
    return 0x00050000 | code


class _Program:
    """Instructions whose jumps may name a place further on, by what is returned there or by a label."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int | str, int | str, int]] = []
        self._places: dict[str, int] = {}

    def add(self, code: int, value: int, if_true: "int | str" = 0, if_false: "int | str" = 0) -> None:
        self._code.append((code, if_true, if_false, value))

    def place(self, label: str) -> None:
        self._places[label] = len(self._code)

    def search(self, ranges: "list[tuple[int, str]]", label: str = "from") -> None:
        """Go where the range of the loaded number says: each begins with its first number and ends where the next begins."""
        middle = len(ranges) // 2
        halves = {f"{label}_{part[0][0]}": part for part in (ranges[:middle], ranges[middle:])}
        lower, upper = (part[0][1] if len(part) == 1 else name for name, part in halves.items())
        self.add(_AT_LEAST, ranges[middle][0], upper, lower)
        for name, part in halves.items():
            if len(part) > 1:
                self.place(name)
                self.search(part, name)

    def assembled(self) -> bytes:
        code: list[bytes] = []
        for at, (operation, if_true, if_false, value) in enumerate(self._code):
            jumps = (jump if isinstance(jump, int) else self._places[jump] - at - 1 for jump in (if_true, if_false))
            code.append(struct.pack("=HBBI", operation, *jumps, value))
        return b"".join(code)


def program(allow_network: bool, machine: str = "") -> bytes | None:
    """The filter as struct sock_filter[], or None for an architecture it does not know.

    It searches by halves, to be short and soon done: for every call of a tool the kernel translates it and tries all numbers.
    """
    known = _ARCHITECTURES.get(machine or os.uname().machine)
    if known is None or sys.byteorder != "little":
        return None
    arch, column = known
    # clone3's flags lie in memory, out of a filter's sight; libc falls back to clone
    targets = {_CLONE3[column]: "unknown", _CLONE[column]: "clone", _SOCKET[column]: "socket"}
    targets |= {number: "refuse" for numbers in REFUSED.values() if (number := numbers[column]) is not None}
    code = _Program()
    code.add(_LOAD, _ARCH)
    code.add(_EQUAL, arch, 0, "kill")
    code.add(_LOAD, _NUMBER)
    code.add(_ANY_BIT, _X32_BIT, "unknown")
    code.search(_ranges(targets))
    code.place("clone")
    code.add(_LOAD, _FIRST_ARGUMENT)
    code.add(_ANY_BIT, _NAMESPACE_FLAGS, "refuse", "allow")
    code.place("socket")
    code.add(_LOAD, _FIRST_ARGUMENT)
    code.add(_EQUAL, _socket.AF_UNIX, "allow")
    for family in (_socket.AF_INET, _socket.AF_INET6):
        code.add(_EQUAL, family, "allow" if allow_network else "unreachable")
    netlink = 16  # name resolution asks the kernel for its addresses
    code.add(_EQUAL, netlink, "allow" if allow_network else "unsupported", "unsupported")
    for label, returned in _RETURNED.items():
        code.place(label)
        code.add(_RETURN, returned)
    return code.assembled()


def _ranges(targets: dict[int, str]) -> list[tuple[int, str]]:
    """The first number of each run with one target, and that target; numbers without one are allowed."""
    starts: list[tuple[int, str]] = [(0, targets.get(0, "allow"))]
    for number in sorted({*targets, *(number + 1 for number in targets)} - {0}):
        target = targets.get(number, "allow")
        if target != starts[-1][1]:
            starts.append((number, target))
    return starts


_RETURNED = {
    "allow": _ALLOW,
    "kill": _KILL_PROCESS,
    "refuse": _refuse(errno.EPERM),
    "unknown": _refuse(errno.ENOSYS),
    "unreachable": _refuse(errno.ENETUNREACH),
    "unsupported": _refuse(errno.EAFNOSUPPORT),
}


class Filter:
    """A program, ready to be installed: `installation` filters the process that makes it, and all it starts, for good.

    Needs no_new_privs.
    """

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("@HP", len(code) // 8, ctypes.addressof(self._code))
        self.installation = libc.prctl("seccomp", libc.PR_SET_SECCOMP, 2, header)
