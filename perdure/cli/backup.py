"""`perdure backup`: a copy of the database, taken while the server runs."""

import os
from pathlib import Path

import click

from perdure.cli import options


@click.command(cls=options.Command, short_help="Copy the database, also while the server runs.")
@click.argument("target", cls=options.Argument, type=options.FILE, about="Where the copy goes: a file, or a folder.")
@click.option("--data-dir", type=options.FILE, help="Where data is kept. (PERDURE_DATA_DIR)")
@click.option("--database", help="The SQLite file. (PERDURE_DATABASE_URL)")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def backup(target: Path, data_dir: Path | None, database: str | None, force: bool) -> None:
    """Copy the SQLite database as of one moment, without stopping anybody, and check the copy.

    To go back to it, stop the server and put the copy in the database's place.
    """
    from perdure.config import SettingsError, load_settings
    from perdure.store.sqlite_file import backup as copy

    settings = load_settings(os.environ, data_dir=data_dir, database=database)
    if settings.postgres_url is not None:
        raise SettingsError("The data is in PostgreSQL: use pg_dump or your provider's backups.")
    if target.is_dir():
        target = target / settings.sqlite_path.name
    if target.exists() and not force:
        raise SettingsError(f"{target} exists already. Choose another name, or replace it with --force.")
    size = copy(settings.sqlite_path, target)
    print(f"{target}  {size / 1_000_000:.1f} MB, checked")
