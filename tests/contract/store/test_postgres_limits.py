"""PostgreSQL's limits: connections, slow statements, locks that others hold, connections that are cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from perdure.core.errors import StoreError
from perdure.store.base import Built, Row, Tx
from perdure.store.postgres import PostgresStore
from tests.doubles.postgres import PostgresProcess

Open = Callable[..., PostgresStore]


@pytest.fixture
async def opened(postgres: PostgresProcess) -> AsyncIterator[Open]:
    url = await asyncio.to_thread(postgres.fresh)
    stores: list[PostgresStore] = []

    def open(**options: float) -> PostgresStore:
        stores.append(PostgresStore(url, **options))  # type: ignore[arg-type]
        return stores[-1]

    yield open
    for store in stores:
        await store.close()


def ask(sql: str) -> Callable[[], Tx[list[Row]]]:
    def tx() -> Tx[list[Row]]:
        return (yield Built(sql, {}))

    return tx


async def test_more_connections_than_the_database_allows_are_refused_with_the_fix(opened: Open) -> None:
    await opened(pool_size=10).check_connections()
    with pytest.raises(StoreError, match="PERDURE_POSTGRES_POOL to 96 or less"):
        await opened(pool_size=200).check_connections()


async def test_no_more_connections_are_opened_than_the_pool_has(opened: Open) -> None:
    store = opened(pool_size=3)
    await asyncio.gather(*(store.read(ask("SELECT pg_sleep(0.01)")) for _ in range(40)))
    rows = await store.read(
        ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure' AND datname = current_database()")
    )
    assert rows[0][0] <= 3


async def test_a_statement_that_takes_too_long_is_ended(opened: Open) -> None:
    store = opened(statement_timeout_s=0.1)
    with pytest.raises(StoreError, match="took too long"):
        await store.read(ask("SELECT pg_sleep(30)"))
    assert (await store.read(ask("SELECT 1")))[0][0] == 1


async def test_a_lock_that_somebody_holds_is_not_waited_for_for_ever(opened: Open) -> None:
    holder, store = opened(), opened(lock_timeout_s=0.1)
    async with holder.connection() as connection, connection.transaction():
        await connection.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreError, match="lock"):
            await store.write(ask("UPDATE runs SET attempts = attempts"))
    await store.write(ask("UPDATE runs SET attempts = attempts"))


async def test_cut_connections_are_replaced_and_the_transaction_is_run_again(opened: Open) -> None:
    store, other = opened(pool_size=2), opened()
    running = asyncio.create_task(store.read(ask("SELECT pg_sleep(0.5)")))
    cut: list[tuple[object, ...]] = []
    async with asyncio.timeout(10):
        while not cut:
            cut = await other.read(
                ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND query = 'SELECT pg_sleep(0.5)'"
                )
            )
    assert len(await running) == 1


class Between:
    """Stands between a store and its database, and can speak in the database's place."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._clients.append(writer)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(_pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def say_that_it_ends(self) -> None:
        """As a database that is being shut down: first the message, the connection's end only later."""
        fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
        for client in self._clients:
            client.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def test_a_connection_that_is_about_to_end_is_replaced(postgres: PostgresProcess) -> None:
    url = await asyncio.to_thread(postgres.fresh)
    between = Between(postgres.port)
    port = await between.start()
    store = PostgresStore(url.replace(f":{postgres.port}/", f":{port}/"), pool_size=1)
    assert await store.read(ask("SELECT 1")) == [(1,)]
    between.say_that_it_ends()
    await asyncio.sleep(0.05)
    assert await store.read(ask("SELECT 1")) == [(1,)]
    between.say_that_it_ends()
    await asyncio.sleep(0.05)
    await store.write(ask("UPDATE runs SET attempts = attempts"))
    await store.close()
    await between.stop()


async def test_larger_reads_are_planned_for_what_they_ask_and_write_nothing(opened: Open) -> None:
    store = opened(pool_size=1)
    planned = ask("SELECT current_setting('plan_cache_mode')")
    assert await store.scan(planned) == [("force_custom_plan",)]
    assert await store.read(planned) == [("auto",)], "the connection is as it was"
    with pytest.raises(StoreError, match="read-only"):
        await store.scan(ask("UPDATE runs SET attempts = attempts"))
    assert await store.read(planned) == [("auto",)]
