"""The application without a socket: real store, a fixed registry, no runner and no sandbox."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.providers import Providers
from perdure.api.app import create_app
from perdure.api.services import Services
from perdure.config import Settings
from perdure.core.vault import Vault
from perdure.providers.embeddings import Embeddings
from perdure.providers.web import Web
from perdure.runs.search import Searcher
from perdure.store.sqlite import SqliteStore
from tests.doubles.fixed_registry import FixedRegistry, info

Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect(store: SqliteStore, tmp_path: Path) -> AsyncIterator[Connect]:
    """Makes clients of an application with these settings."""
    await ensure_builtin_tools(store)
    vault = Vault([bytes(32)])
    opened: list[httpx.AsyncClient] = []

    def make(*, routes: Any = (), headers: dict[str, str] | None = None, **settings: Any) -> httpx.AsyncClient:
        registry = FixedRegistry(info("openai/small"), info("openai/embed", kind="embedding"))
        parts = Services(
            settings=Settings(data_dir=tmp_path, **settings),
            store=store,
            registry=registry,
            sandbox=cast(Any, SimpleNamespace(isolation="strict", warning=None)),
            runner=cast(Any, None),
            web=Web(),
            rollouts=cast(Any, None),
            batches=cast(Any, None),
            metrics=bytes,
            embeddings=Embeddings(registry),
            search=Searcher(store),
            vault=vault,
            providers=Providers(store, registry, vault),
        )
        app = create_app(parts, extra_routes=routes)
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(cast(Any, app)), base_url="http://test", headers=headers or {}
        )
        opened.append(client)
        return client

    yield make
    for client in opened:
        await client.aclose()


@pytest.fixture
def http(connect: Connect) -> httpx.AsyncClient:
    return connect()
