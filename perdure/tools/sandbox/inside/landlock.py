"""Landlock: what of the file system tool code may touch, whatever the mounts and permissions say.

The domain also keeps signals, abstract sockets and tracing within it, as far as the kernel's version goes.
Source: linux/landlock.h, Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

from . import libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_ALL_V1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TCP = 0b11
_SCOPES = 0b11


def abi() -> int:
    """The version of Landlock this kernel has; 0 for none."""
    try:
        return libc.make(libc.syscall("landlock version", _CREATE_RULESET, None, 0, 1))
    except OSError:
        return 0


def ruleset(version: int, readable: Sequence[str], writable: Sequence[str], allow_network: bool) -> int:
    """A descriptor of the rules. Paths that do not exist are left out."""
    handled = _ALL_V1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if version >= since:
            handled |= right
    network = _TCP if version >= 4 and not allow_network else 0
    scopes = _SCOPES if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.make(libc.syscall("landlock ruleset", _CREATE_RULESET, attributes, size, 0))
    try:
        for path in readable:
            _allow(rules, path, _READ & handled)
        for path in writable:
            _allow(rules, path, handled)
    except BaseException:
        os.close(rules)
        raise
    return rules


def restriction(rules: int) -> libc.Call:
    """Confines the process that makes it, and all it starts, for good. Needs no_new_privs."""
    return libc.syscall("landlock", _RESTRICT_SELF, rules, 0)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined]
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _ON_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd))
        libc.make(libc.syscall("landlock rule", _ADD_RULE, rules, _PATH_BENEATH, rule, 0))
    finally:
        os.close(fd)
