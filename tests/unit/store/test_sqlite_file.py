"""One server a file, damage found after a crash, copies taken while it is written."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from perdure.core.errors import StoreError
from perdure.store.base import Query, Tx
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_file import FileLock, backup, damage


def tag(name: str) -> Tx[None]:
    yield Query("insert_tag", {"kind": "test", "entity_id": "1", "tag": name, "position": 0})


def test_a_second_server_is_refused_and_told_whom_to_stop(tmp_path: Path) -> None:
    first = FileLock.take(tmp_path / "a.db")
    with pytest.raises(StoreError, match=r"in use by another Perdure server \(process \d+\).*PostgreSQL"):
        FileLock.take(tmp_path / "a.db")
    first.release()
    second = FileLock.take(tmp_path / "a.db")
    assert not second.unclean
    second.release()


def test_a_server_that_did_not_stop_by_itself_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.db.lock").write_text("12345\n")
    lock = FileLock.take(tmp_path / "a.db")
    assert lock.unclean
    lock.release()


async def test_damage_is_found_after_a_crash(tmp_path: Path, empty_database: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(empty_database)
    with sqlite3.connect(path) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tags_tag'").fetchone()[0]
    connection.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"x" * 4096
    path.write_bytes(data)
    (tmp_path / "a.db.lock").write_text("12345\n")
    store = SqliteStore(path, lock=FileLock.take(path))
    await store.check_after_crash()
    await store.close()
    assert store.warning is not None
    assert "is damaged" in store.warning and str(path) in store.warning


async def test_a_sound_file_has_no_warning(tmp_path: Path, empty_database: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(empty_database)
    (tmp_path / "a.db.lock").write_text("12345\n")
    store = SqliteStore(path, lock=FileLock.take(path))
    await store.check_after_crash()
    assert store.warning is None
    await store.close()


async def test_a_copy_taken_while_writing_holds_whole_transactions(tmp_path: Path, empty_database: bytes) -> None:
    path, target = tmp_path / "a.db", tmp_path / "copies" / "b.db"
    path.write_bytes(empty_database)
    store = SqliteStore(path, synchronous="NORMAL")

    def pair(number: int) -> Tx[None]:
        yield from tag(f"{number}-first")
        yield from tag(f"{number}-second")

    for number in range(50):
        await store.write(lambda number=number: pair(number))
    writing = asyncio.gather(*(store.write(lambda number=number: pair(number)) for number in range(50, 400)))
    size = await asyncio.to_thread(backup, path, target)
    await writing
    await store.close()
    assert size == target.stat().st_size
    assert damage(target) == []
    with sqlite3.connect(target) as copy:
        names = [row[0] for row in copy.execute("SELECT tag FROM tags")]
    assert len(names) >= 100 and len(names) % 2 == 0


def test_what_is_no_database_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no database"):
        backup(tmp_path / "none.db", tmp_path / "b.db")
    (tmp_path / "junk.db").write_text("junk " * 1000)
    with pytest.raises(StoreError, match="could not be copied"):
        backup(tmp_path / "junk.db", tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists() and not (tmp_path / "b.db.partial").exists()
