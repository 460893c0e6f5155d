"""Shared by all tests: a fresh SQLite store."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from perdure.store.migrate import migrate_sqlite
from perdure.store.sqlite import SqliteStore

# how long an example takes says how busy the machine is, not whether the code is right
# CI judges a change by the same examples each time; everywhere else new ones are looked for
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database at the newest schema, made once; tests copy it."""
    path = tmp_path_factory.mktemp("schema") / "empty.db"
    migrate_sqlite(path)
    return path.read_bytes()


@pytest.fixture
async def store(tmp_path: Path, empty_database: bytes) -> AsyncIterator[SqliteStore]:
    path = tmp_path / "perdure.db"
    path.write_bytes(empty_database)
    made = SqliteStore(path, synchronous="NORMAL")
    yield made
    await made.close()
