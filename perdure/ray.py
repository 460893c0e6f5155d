"""The server on Ray Serve: `serve run perdure.ray:app`. Every replica is a whole server; they share one PostgreSQL.

Settings come from the replicas' environment, as for `perdure serve`. Nothing is opened before a replica starts.
"""

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.config import Settings, SettingsError, load_settings
from perdure.core.errors import AgentError
from perdure.server import Server, build

log = logging.getLogger(__name__)

REPLICAS = "PERDURE_RAY_REPLICAS"
MAX_ONGOING_REQUESTS = 1000  # streams are open for long, and cost little
SHUTDOWN_S = 30.0


class Replica:
    """One server as an ASGI application that is started and stopped by lifespan events."""

    def __init__(self) -> None:
        self._server: Server | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._server is None:
            raise RuntimeError("the replica has not been started")
        app: ASGIApp = self._server.app
        await app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            server = build(replica_settings(os.environ))
            await server.start()
        except (AgentError, SettingsError) as error:
            log.error("%s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._server = server
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._server = None
        await server.stop()
        await send({"type": "lifespan.shutdown.complete"})


def replica_settings(env: Mapping[str, str]) -> Settings:
    """SettingsError unless the database is one that replicas can share, and so is the key of its secrets."""
    settings = load_settings(env)
    if settings.postgres_url is None:
        raise SettingsError(
            "Replicas on Ray Serve share one database: set PERDURE_DATABASE_URL=postgresql://user@host/name in their environment."
        )
    if not settings.encryption_keys:
        raise SettingsError(
            "Replicas on Ray Serve share one key for secrets: set PERDURE_ENCRYPTION_KEY in their environment."
        )
    return settings


def application(replicas: int | None = None) -> Any:
    """What `serve run` takes. `replicas`: PERDURE_RAY_REPLICAS, else 1."""
    serve: Any = importlib.import_module("ray.serve")
    many = replicas or int(os.environ.get(REPLICAS, "1"))

    @serve.deployment(
        name="perdure",
        num_replicas=many,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=SHUTDOWN_S,
    )
    @serve.ingress(Replica())
    class Perdure:
        """Ray Serve's own class around the application."""

    deployment: Any = Perdure
    return deployment.bind()


def __getattr__(name: str) -> Any:
    if name == "app":
        return application()
    raise AttributeError(name)
