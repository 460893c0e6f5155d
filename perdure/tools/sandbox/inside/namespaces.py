"""A slot's own namespaces: no process, mount or System V object of another call or of the zygote is in sight.

They are made by unsharing, so whoever calls these needs CAP_SYS_ADMIN in the sandbox's user namespace; tool code has none.
"""

# the listing is of names only
# ruff: noqa: PTH208

import os

from . import libc

_WORK_DIR_FLAGS = libc.MS_NOSUID | libc.MS_NODEV
_SHM_FLAGS = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
_NODE_LIMIT = 16_384


def gain_own_ids(uid: int) -> None:
    """Become `uid`, an id the user namespace maps to an unprivileged one outside, keeping what making namespaces takes."""
    libc.make(libc.prctl("keep capabilities", libc.PR_SET_KEEPCAPS, 1))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def limit_capabilities() -> None:
    kept = libc.CAP_SYS_ADMIN, libc.CAP_SETUID, libc.CAP_SETGID, libc.CAP_SETPCAP, libc.CAP_KILL
    libc.make(libc.set_capabilities(*kept))


class PidNamespaces:
    """Makes the next fork the first process of a new PID namespace: when that process ends, the kernel ends all in it."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def fork(self) -> int:
        # a second unshare fails unless the namespace for children is this process's own again
        libc.setns(self._own, libc.CLONE_NEWPID)
        libc.unshare(libc.CLONE_NEWPID)
        return os.fork()


class Mounts:
    """A slot's own mounts: a /proc that shows its PID namespace, and a work dir and /dev/shm that are empty for every call.

    To be made in the first process of a PID namespace. `own_users`: calls run as others than the owner of those folders, so
    they cannot change the folders themselves, and one that is empty again is as good as new.
    """

    def __init__(self, work_dir: str, disk_mb: int, own_users: bool) -> None:
        self._folders = (work_dir, _WORK_DIR_FLAGS), ("/dev/shm", _SHM_FLAGS)
        self._own_users = own_users
        self._options = f"size={disk_mb}m,nr_inodes={_NODE_LIMIT},mode=1777"
        libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWIPC)
        libc.mount("proc", "/proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
        for path, flags in self._folders:
            libc.mount("tmpfs", path, flags, self._options)

    def make_empty(self) -> bool:
        """After a call, all of whose processes have ended. Whether anything had to be thrown away."""
        used = False
        for path, flags in self._folders:
            if self._own_users and not os.listdir(path):
                continue
            libc.unmount(path)
            libc.mount("tmpfs", path, flags, self._options)
            used = True
        return used


def drop_ipc_objects() -> None:
    libc.unshare(libc.CLONE_NEWIPC)
