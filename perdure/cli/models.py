"""`perdure models`: which models can be used here, and what is wrong with the providers that cannot be reached."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.cli.options import AsJson, new_app

app = new_app("List models and check providers.")

COLUMNS = ("handle", "kind", "context", "endpoint")


@app.command()
def models(
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="Ask this server instead of the environment.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with providers. (PERDURE_CONFIG)")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models that can be reached, and say what is wrong with the providers that cannot.

    Reads the same environment and configuration file as `perdure serve`, so no server is needed.
    Exits with status 1 when nothing can be reached.
    """
    found, errors = _from_server(base_url) if base_url else _from_environment(config)
    _print(found, errors, as_json=as_json)
    if not found:
        raise typer.Exit(1)


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
            return await list_models(registry)
        finally:
            await registry.close()

    found, errors = asyncio.run(ask())
    return [_row({"handle": m.handle}, m.kind, m.endpoint, m.context_window) for m in found], errors


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
