"""A slot's own namespaces: no process, mount or System V object of another call or of the zygote is in sight.

They are made by unsharing, so whoever calls these needs CAP_SYS_ADMIN in the sandbox's user namespace; tool code has none.
"""

import os

from . import libc

WORK_DIR = "/tmp"
_SHM_DIR = "/dev/shm"
_NODE_LIMIT = 16_384


def gain_own_ids(uid: int) -> None:
    """Become `uid`, an id the user namespace maps to an unprivileged one outside, keeping what making namespaces takes."""
    libc.prctl("keep capabilities", libc.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def limit_capabilities() -> None:
    libc.Capabilities(libc.CAP_SYS_ADMIN, libc.CAP_SETUID, libc.CAP_SETGID, libc.CAP_SETPCAP, libc.CAP_KILL).set()


class PidNamespaces:
    """Makes the next fork the first process of a new PID namespace: when that process ends, the kernel ends all in it."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def fork(self) -> int:
        # a second unshare fails unless the namespace for children is this process's own again
        libc.setns(self._own, libc.CLONE_NEWPID)
        libc.unshare(libc.CLONE_NEWPID)
        return os.fork()


def enter_own_mounts() -> None:
    """In the first process of a PID namespace: mounts of its own, with a /proc that shows that namespace."""
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("proc", "/proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)


def mount_work_dirs(uid: int, disk_mb: int) -> None:
    """An empty /tmp and /dev/shm, and no System V objects, for the next call, which runs as `uid`."""
    libc.unshare(libc.CLONE_NEWIPC)
    options = f"size={disk_mb}m,nr_inodes={_NODE_LIMIT},mode=700,uid={uid},gid={uid}"
    libc.mount("tmpfs", WORK_DIR, libc.MS_NOSUID | libc.MS_NODEV, options)
    libc.mount("tmpfs", _SHM_DIR, libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC, options)


def unmount_work_dirs() -> None:
    """What the call left in them is gone. Nothing can still use them: its processes have ended."""
    for path in (WORK_DIR, _SHM_DIR):
        libc.unmount(path)
