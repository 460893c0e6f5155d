"""Which store the settings mean, opened and brought to its newest schema."""

import logging
from pathlib import Path
from urllib.parse import urlsplit

from perdure.config import Settings, SettingsError
from perdure.store.base import Store
from perdure.store.migrate import migrate_postgres, migrate_sqlite
from perdure.store.postgres import PostgresStore
from perdure.store.redis_signals import RedisSignals
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_file import FileLock

log = logging.getLogger(__name__)


def open_store(settings: Settings) -> tuple[Store, list[Path]]:
    """The database at its newest schema, and the folders that tools must not see. StoreError, SettingsError."""
    if (url := settings.postgres_url) is not None:
        migrate_postgres(url)
        store = PostgresStore(url, pool_size=settings.postgres_pool)
        if settings.redis_url is not None:
            store.signals = RedisSignals(settings.redis_url, store.signals, name=urlsplit(url).path.strip("/"))
        return store, []
    if settings.redis_url is not None:
        log.warning("PERDURE_REDIS_URL is not used: a SQLite file has one server, which needs no news of others.")
    path = settings.sqlite_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"The folder of the database cannot be made: {error}. Give another --database.") from error
    lock = FileLock.take(path)
    try:
        migrate_sqlite(path)
        return SqliteStore(path, synchronous=settings.synchronous, lock=lock), [path.parent]
    except BaseException:
        lock.release()
        raise
