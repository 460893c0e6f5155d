"""`perdure models`: which models can be used here, and what is wrong with the providers that cannot be reached."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli import options

if TYPE_CHECKING:
    from perdure.config import Settings
    from perdure.providers.registry import Registry

COLUMNS = ("handle", "kind", "context", "endpoint")


@click.command(short_help="List models and check providers.")
@click.option("--base-url", metavar="URL", help="Ask this server instead of the environment.")
@options.config
@options.as_json
def models(base_url: str | None, config: Path | None, as_json: bool) -> None:
    """List the models that can be reached, and say what is wrong with the providers that cannot.

    Reads the same environment, configuration file and added providers as `perdure serve`, so no server is needed.
    Exits with status 1 when nothing can be reached.
    """
    found, errors = _from_server(base_url) if base_url else _from_environment(config)
    _print(found, errors, as_json=as_json)
    if not found:
        sys.exit(1)


def _from_server(base_url: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    from perdure.cli.client import connect

    client = connect(base_url)
    found = [_row(m, "llm", m.get("model_endpoint"), m.get("context_window")) for m in client.get("/v1/models/")]
    found += [_row(m, "embedding", m.get("embedding_endpoint"), None) for m in client.get("/v1/models/embedding")]
    return found, {}


def _from_environment(config: Path | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    import asyncio

    from perdure.cli.serve import list_models
    from perdure.config import load_settings
    from perdure.providers.registry import Registry, providers_from_config, providers_from_env

    settings = load_settings(os.environ, config_file=config)

    async def ask() -> tuple[list[Any], dict[str, str]]:
        configs = [*providers_from_config(settings.config, settings.env), *providers_from_env(settings.env)]
        registry = Registry(configs, tokenizers_dir=settings.tokenizers_dir, env=settings.env)
        try:
            wrong = await _use_added(settings, registry)
            found, errors = await list_models(registry)
            return found, {**errors, **wrong}
        finally:
            await registry.close()

    found, errors = asyncio.run(ask())
    return [_row({"handle": m.handle}, m.kind, m.endpoint, m.context_window) for m in found], errors


async def _use_added(settings: "Settings", registry: "Registry") -> dict[str, str]:
    """Take the added providers into use, if there is a database; answers what is wrong with it. Nothing is made or written."""
    from perdure.agents.providers import Providers
    from perdure.agents.sealing import KEY_FILE, open_vault
    from perdure.core.errors import AgentError
    from perdure.store.migrate import sqlite_is_current
    from perdure.store.postgres import PostgresStore
    from perdure.store.sqlite import SqliteStore

    url = settings.postgres_url
    if not settings.encryption_keys and not (settings.data_dir / KEY_FILE).exists():
        return {}  # no server has been here
    try:
        if url is None and not sqlite_is_current(settings.sqlite_path):
            return {}
        store = SqliteStore(settings.sqlite_path, readers=1) if url is None else PostgresStore(url, pool_size=1)
        try:
            await Providers(store, registry, open_vault(settings.encryption_keys, settings.data_dir)).load()
        finally:
            await store.close()
    except AgentError as error:
        return {"added providers": error.message}
    return {}


def _row(model: dict[str, Any], kind: str, endpoint: str | None, context: int | None) -> dict[str, Any]:
    return {"handle": model.get("handle"), "kind": kind, "context_window": context, "endpoint": endpoint}


def _print(found: list[dict[str, Any]], errors: dict[str, str], *, as_json: bool) -> None:
    from perdure.cli.show import print_json, print_table, warn

    if as_json:
        print_json({"models": found, "errors": errors})
        return
    rows = [(m["handle"], m["kind"], m["context_window"], m["endpoint"]) for m in found]
    print_table(COLUMNS, rows, empty="No model can be reached.")
    for provider, error in errors.items():
        warn(f"{provider}: {error}")
