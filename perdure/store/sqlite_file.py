"""A SQLite database as a file: opened by one server at a time, checked after a crash, copied while in use.

Invariant: whoever holds the lock is the only server on the file; the lock goes with its process, however that ends.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import IO

from perdure.core.errors import StoreError

CLEAN = "stopped"


class FileLock:
    """The right to serve one file. `unclean`: the last server on it did not stop by itself."""

    def __init__(self, file: IO[str], unclean: bool) -> None:
        self._file = file
        self.unclean = unclean

    @classmethod
    def take(cls, database: Path) -> "FileLock":
        """StoreError if another server has the file open, naming its process."""
        path = database.with_name(database.name + ".lock")
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error}. The database's folder must be writable.") from error
        file.seek(0)
        noted = file.read().strip()
        if not _lock(file):
            file.close()
            raise StoreError(
                f"{database} is in use by another Perdure server (process {noted or 'unknown'}). Stop that one, give this "
                "one a --data-dir of its own, or keep the data in PostgreSQL, which any number of servers may share."
            )
        lock = cls(file, unclean=noted not in ("", CLEAN))
        lock._note(str(os.getpid()))
        return lock

    def release(self) -> None:
        if not self._file.closed:
            self._note(CLEAN)
            self._file.close()

    def _note(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text + "\n")
        self._file.flush()


def _lock(file: IO[str]) -> bool:
    """False: another process has it. A file system that knows no locks is taken as it is."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def damage(path: Path) -> list[str]:
    """What SQLite finds wrong with the file, [] for a sound one. Reads all of it; writers go on meanwhile."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(20)")]
    except sqlite3.DatabaseError as error:
        found = [str(error)]
    finally:
        connection.close()
    return [] if found == ["ok"] else found


def backup(source: Path, target: Path) -> int:
    """Copy a database, in use or not, as of one moment; the copy is checked. Its size in bytes. StoreError."""
    if not source.is_file():
        raise StoreError(f"There is no database at {source}. Give --data-dir or --database.")
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as reading,
            contextlib.closing(sqlite3.connect(partial)) as writing,
        ):
            reading.backup(writing)
        if wrong := damage(partial):
            raise StoreError(f"The copy of {source} is damaged, as the database itself may be: {wrong[0]}")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{source} could not be copied to {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target.stat().st_size
