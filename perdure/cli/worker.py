"""`perdure worker`: drive the runs of a PostgreSQL database, without an HTTP API, until SIGTERM or Ctrl-C."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import options
from perdure.cli.serve import database_note, isolation_note, log_to_stderr, say

if TYPE_CHECKING:
    from perdure.config import Settings
    from perdure.server import Server


@click.command(short_help="Drive runs that servers accept.")
@click.option("--database", help="A postgresql:// URL. (PERDURE_DATABASE_URL)")
@click.option("--max-runs", type=click.IntRange(1), help="Runs driven at once, at most. (PERDURE_MAX_RUNS, else 1000)")
@click.option(
    "--data-dir", type=options.FILE, help="Where its own files are. (PERDURE_DATA_DIR, else the platform's place)"
)
@options.config
@options.log_level
def worker(
    database: str | None, max_runs: int | None, data_dir: Path | None, config: Path | None, log_level: str
) -> None:
    """Drive the runs that any `perdure serve` on the same PostgreSQL database accepts.

    Start as many as you like; all of them need the servers' providers and one PERDURE_ENCRYPTION_KEY. A worker that is told to
    stop lets its runs end for a moment and hands over the rest; those of one that dies are taken over within ten seconds.
    """
    from perdure.config import load_settings
    from perdure.server import work

    log_to_stderr(log_level)
    settings = load_settings(
        os.environ, data_dir=data_dir, database=database, config_file=config, max_runs=max_runs, runs=True
    )
    work(settings, on_ready=lambda server: _told(settings, server))


def _told(settings: "Settings", server: "Server") -> None:
    say("Perdure", f"worker {server.services.runner.owner}  (Ctrl-C stops it)", "bold green")
    say("database", database_note(settings))
    say("tools run", *isolation_note(server.services.sandbox.isolation, server.services.sandbox.warning))
