"""`perdure serve`: run the server in the foreground until SIGTERM or Ctrl-C."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from perdure.cli import options
from perdure.cli.show import paint, use_colour

if TYPE_CHECKING:
    from perdure.config import Settings
    from perdure.server import Server

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command(short_help="Run the server.")
@click.option("--host", help="Address to listen on. (PERDURE_HOST, else 127.0.0.1)")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on. (PERDURE_PORT, else 8283)")
@click.option("--data-dir", type=options.FILE, help="Where data is kept. (PERDURE_DATA_DIR, else the platform's place)")
@click.option(
    "--database", help="A SQLite file or a database URL. (PERDURE_DATABASE_URL, else perdure.db in the data directory)"
)
@options.config
@click.option("--no-runs", is_flag=True, help="Only accept runs, and leave them to workers. (PERDURE_RUNS=false)")
@click.option(
    "--ray", help="Run custom tools and rollouts on this Ray cluster: auto, local or host:port. (PERDURE_RAY)"
)
@options.log_level
def serve(
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    database: str | None,
    config: Path | None,
    no_runs: bool,
    ray: str | None,
    log_level: str,
) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Models come from the environment (OPENAI_API_KEY, SGLANG_BASE_URL, VLLM_BASE_URL, ...) or a TOML file; with none, a
    small model that needs nothing else is offered. PERDURE_PASSWORD asks clients for a password.
    """
    from perdure.config import load_settings
    from perdure.server import serve as run_server

    log_to_stderr(log_level)
    settings = load_settings(
        os.environ,
        host=host,
        port=port,
        data_dir=data_dir,
        database=database,
        config_file=config,
        runs=False if no_runs else None,
        ray=ray,
    )
    banner = Banner(settings, os.environ)
    run_server(settings, on_ready=banner, log_level=log_level)


def log_to_stderr(level: str) -> None:
    import logging

    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )


class Banner:
    """Called once the server listens. Says at once where it is, and then what the providers offer."""

    def __init__(self, settings: "Settings", env: Mapping[str, str]) -> None:
        self._settings = settings
        self._env = env
        self._task: asyncio.Task[None] | None = None

    def __call__(self, server: "Server") -> None:
        from perdure import __version__

        settings = self._settings
        say(
            "Perdure",
            f"{__version__} at http://{url_host(settings.host)}:{settings.port}  (Ctrl-C stops it)",
            "bold green",
        )
        say("database", database_note(settings))
        say("password", *password_note(settings, self._env))
        self._task = asyncio.get_running_loop().create_task(self._describe(server))

    async def _describe(self, server: "Server") -> None:
        say("tools run", *isolation_note(server.services.sandbox.isolation, server.services.sandbox.warning))
        models, errors = await list_models(server.services.registry)
        handles = [model.handle for model in models if model.kind == "llm"]
        shown = ", ".join(handles[:6]) + (f" and {len(handles) - 6} more" if len(handles) > 6 else "")
        say("models", shown or "none: see `perdure models`", "" if handles else "yellow")
        for provider, error in errors.items():
            say("", f"{provider}: {error}", "yellow")


async def list_models(registry: Any) -> tuple[list[Any], dict[str, str]]:
    """Every provider's models, and what is wrong with those that could not be asked: (models, name -> message)."""
    models = await registry.list_models()
    return list(models), {name: str(error) for name, error in registry.errors.items()}


def database_note(settings: "Settings") -> str:
    """Where the data is kept, without what only the database should know."""
    if (url := settings.postgres_url) is None:
        return str(settings.sqlite_path)
    parts = urlsplit(url)
    return f"postgresql://{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"


def password_note(settings: "Settings", env: Mapping[str, str]) -> tuple[str, str]:
    """(text, style). A password that was made up for this start is shown: nobody could know it otherwise."""
    if settings.password is None:
        if settings.host in LOOPBACK:
            return "none: anybody on this machine may call (PERDURE_PASSWORD sets one)", ""
        return "NONE, and the address is open to the network. Set PERDURE_PASSWORD.", "red"
    if settings.password in (env.get("PERDURE_PASSWORD"), env.get("LETTA_SERVER_PASSWORD")):
        return "asked for (Authorization: Bearer)", ""
    return f"{settings.password}  (made up for this start; PERDURE_PASSWORD sets one)", "yellow"


def isolation_note(isolation: str, warning: str | None) -> tuple[str, str]:
    """(text, style). The sandbox itself says what its isolation does not keep tools from."""
    if warning is not None:
        return warning, "yellow"
    return f"in a sandbox ({isolation} isolation)", ""


def url_host(host: str) -> str:
    """A host as it stands in a URL one can open."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def say(label: str, text: str, style: str = "") -> None:
    colour = use_colour(sys.stderr)
    print(
        f"{paint(f'{label:>10}', 'dim', colour=colour)}  {paint(text, style, colour=colour)}",
        file=sys.stderr,
        flush=True,
    )
