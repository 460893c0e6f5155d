"""An empty file becomes at once what the migrations would make of it."""

import sqlite3
from pathlib import Path

import pytest

from perdure.core.errors import StoreError
from perdure.store.migrate import HEAD, migrate_sqlite, sqlite_is_current, upgrade

AGAIN = "Run scripts/make_sqlite_schema.py after a migration was added."


def everything(path: Path) -> tuple[set[tuple[str, ...]], dict[str, list[tuple[object, ...]]]]:
    """What is defined, and all rows but those that full-text indices keep for themselves."""
    connection = sqlite3.connect(path)
    defined = set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))
    own = tuple(f"{row[1]}_" for row in defined if (row[3] or "").startswith("CREATE VIRTUAL"))
    tables = [row[1] for row in defined if row[0] == "table" and not row[1].startswith(own)]
    rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}
    connection.close()
    return defined, rows


def test_a_new_database_is_what_the_migrations_make(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path / 'step by step.db'}")
    assert migrate_sqlite(tmp_path / "at once.db")
    assert everything(tmp_path / "at once.db") == everything(tmp_path / "step by step.db"), AGAIN
    assert sqlite_is_current(tmp_path / "at once.db") and not migrate_sqlite(tmp_path / "at once.db")


def test_the_newest_revision_is_the_one_that_is_named(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path / 'new.db'}")
    _, rows = everything(tmp_path / "new.db")
    assert rows["alembic_version"] == [(HEAD,)]


def test_a_database_with_tables_is_migrated_and_not_made_anew(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE mine (a)")
    connection.close()
    assert migrate_sqlite(tmp_path / "other.db")
    defined, _ = everything(tmp_path / "other.db")
    assert {"mine", "agents"} <= {row[1] for row in defined}


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Not a database, and longer than the header of one. " * 20)
    with pytest.raises(StoreError, match="not a SQLite database"):
        migrate_sqlite(tmp_path / "notes.txt")
