"""Alembic's entry point: runs the versions in this folder on the URL that `migrate.upgrade` gives.

On PostgreSQL one server migrates at a time; the others wait, and find nothing left to do.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

URL = context.config.get_main_option("sqlalchemy.url") or ""
LOCK = 0x70657264  # an advisory lock's number, ours by convention


def migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_postgres() -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(URL, poolclass=pool.NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if URL.startswith("postgresql"):
    asyncio.run(migrate_postgres())
else:
    with create_engine(URL, poolclass=pool.NullPool).begin() as connection:
        migrate(connection)
