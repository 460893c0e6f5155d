"""What the routes are given: the parts `server.py` built, under one name each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.agents.providers import Providers
    from perdure.config import Settings
    from perdure.core.vault import Vault
    from perdure.providers.embeddings import Embeddings
    from perdure.providers.registry import Registry
    from perdure.providers.web import Web
    from perdure.rollouts.driver import Rollouts
    from perdure.runs.batches import Batches
    from perdure.runs.runner import Runner
    from perdure.runs.search import Searcher
    from perdure.store.base import Store
    from perdure.tools.sandbox import Sandbox


@dataclass(slots=True)
class Services:
    settings: "Settings"
    store: "Store"
    registry: "Registry"
    sandbox: "Sandbox"
    runner: "Runner"
    web: "Web"
    rollouts: "Rollouts"
    batches: "Batches"
    metrics: "Callable[[], bytes]"
    embeddings: "Embeddings"
    search: "Searcher"
    vault: "Vault"
    providers: "Providers"


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)
