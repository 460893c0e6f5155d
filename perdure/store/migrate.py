"""Brings a database to the newest schema at start-up. Alembic is imported only when the schema is behind.

`HEAD` names the newest revision, and `sqlite_schema.sql` is what an empty SQLite file becomes at once; unit tests hold both to
what the migrations make.
"""

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from perdure.core.errors import StoreError

HEAD = "0017"
SQLITE_SCHEMA = Path(__file__).parent / "sqlite_schema.sql"
STARTING_S = 30.0


def sqlite_is_current(path: str | Path) -> bool:
    """True if the file exists and its schema is HEAD. StoreError if the file is not a database or is from a newer Perdure."""
    if not Path(path).exists():
        return False
    try:
        connection = sqlite3.connect(path)
        try:
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} is not a SQLite database ({error}). Point --database at another file.") from error
    version = rows[0][0] if rows else None
    if version is not None and version > HEAD:
        raise StoreError(f"{path} has schema {version}; this Perdure knows {HEAD}. Upgrade Perdure to open it.")
    return version == HEAD


def migrate_sqlite(path: str | Path) -> bool:
    """Apply what is missing; True if anything was."""
    if sqlite_is_current(path):
        return False
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not _made_anew(path):
        upgrade(f"sqlite:///{Path(path).absolute()}")
    return True


def _made_anew(path: str | Path) -> bool:
    """Make all tables of a database that has none; False if it has any."""
    connection = sqlite3.connect(path)
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            return False
        connection.executescript(f"BEGIN IMMEDIATE;\n{SQLITE_SCHEMA.read_text(encoding='utf-8')}\nCOMMIT;")
        return True
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be made: {error}") from error
    finally:
        connection.close()


def migrate_postgres(url: str) -> None:
    """Bring the database at `url` (postgresql://...) to the newest schema. StoreError if it cannot be reached or is newer.

    Runs an event loop in a thread of its own, so it may be called from inside one.
    """
    with ThreadPoolExecutor(1) as thread:
        version = thread.submit(lambda: asyncio.run(_postgres_version(url))).result()
        if version is not None and version > HEAD:
            raise StoreError(
                f"The database has schema {version}; this Perdure knows {HEAD}. Upgrade Perdure to open it."
            )
        if version != HEAD:
            thread.submit(upgrade, _async_url(url)).result()


def _async_url(url: str) -> str:
    """As SQLAlchemy's asyncpg dialect takes it."""
    return "postgresql+asyncpg://" + url.partition("://")[2].replace("sslmode=", "ssl=")


async def _postgres_version(url: str) -> str | None:
    try:
        import asyncpg
    except ImportError as error:
        raise StoreError("PostgreSQL needs the extra: pip install 'perdure[postgres]'.") from error
    try:
        connection = await _connected(url)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise StoreError(f"PostgreSQL cannot be opened: {type(error).__name__}: {error}") from error
    try:
        return await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()


async def _connected(url: str) -> Any:
    """A database that is just starting, or recovering, is waited for."""
    import asyncpg

    deadline = time.monotonic() + STARTING_S
    while True:
        try:
            return await asyncpg.connect(url, timeout=10)
        except (asyncpg.CannotConnectNowError, ConnectionResetError):
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(0.2)


def upgrade(url: str) -> None:
    """`url` as SQLAlchemy takes it (synchronous driver)."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")
