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

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def _refuse(code: int) -> bytes:
    return _instruction(_RETURN, 0, 0, 0x00050000 | code)


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def program(allow_network: bool, machine: str = "") -> bytes | None:
    """The filter as struct sock_filter[], or None for an architecture it does not know."""
    known = _ARCHITECTURES.get(machine or os.uname().machine)
    if known is None or sys.byteorder != "little":
        return None
    arch, column = known
    code = [
        _instruction(_LOAD, 0, 0, _ARCH),
        _instruction(_EQUAL, 1, 0, arch),
        _instruction(_RETURN, 0, 0, _KILL_PROCESS),
        _instruction(_LOAD, 0, 0, _NUMBER),
        _instruction(_ANY_BIT, 0, 1, _X32_BIT),
        _refuse(errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            code += [_instruction(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    # its flags lie in memory, out of a filter's sight; libc falls back to clone
    code += [_instruction(_EQUAL, 0, 1, _CLONE3[column]), _refuse(errno.ENOSYS)]
    code += [
        _instruction(_EQUAL, 0, 4, _CLONE[column]),
        _instruction(_LOAD, 0, 0, _FIRST_ARGUMENT),
        _instruction(_ANY_BIT, 0, 1, _NAMESPACE_FLAGS),
        _refuse(errno.EPERM),
        _instruction(_RETURN, 0, 0, _ALLOW),
    ]
    code += _socket_rule(_SOCKET[column], allow_network)
    code.append(_instruction(_RETURN, 0, 0, _ALLOW))
    return b"".join(code)


def _socket_rule(number: int, allow_network: bool) -> list[bytes]:
    allow = _instruction(_RETURN, 0, 0, _ALLOW)
    body = [_instruction(_LOAD, 0, 0, _FIRST_ARGUMENT), _instruction(_EQUAL, 0, 1, _socket.AF_UNIX), allow]
    for family in (_socket.AF_INET, _socket.AF_INET6):
        body += [_instruction(_EQUAL, 0, 1, family), allow if allow_network else _refuse(errno.ENETUNREACH)]
    if allow_network:
        netlink = 16  # name resolution asks the kernel for its addresses
        body += [_instruction(_EQUAL, 0, 1, netlink), allow]
    body.append(_refuse(errno.EAFNOSUPPORT))
    return [_instruction(_EQUAL, 0, len(body), number), *body]


class Filter:
    """A program, ready to be installed: `installation` filters the process that makes it, and all it starts, for good.

    Needs no_new_privs.
    """

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("@HP", len(code) // 8, ctypes.addressof(self._code))
        self.installation = libc.prctl("seccomp", libc.PR_SET_SECCOMP, 2, header)
