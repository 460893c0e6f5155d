"""`perdure backup`: a copy of the database, taken while the server runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import new_app

app = new_app("Copy the database, also while the server runs.")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="Where the copy goes: a file, or a folder.")],
    data_dir: Annotated[Path | None, typer.Option(help="Where data is kept. (PERDURE_DATA_DIR)")] = None,
    database: Annotated[str | None, typer.Option(help="The SQLite file. (PERDURE_DATABASE_URL)")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
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
