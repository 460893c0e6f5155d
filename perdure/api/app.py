"""The ASGI application: routes, one error handler per kind of error, and what every path has in common.

Every path is served under /v1 and /latest, with and without a trailing slash, and never through a redirect.
"""

from collections.abc import Sequence
from functools import cache

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

import perdure
from perdure.api.auth import Guard
from perdure.api.errors import error_response, on_agent_error, on_http_error, on_validation_error
from perdure.api.openapi import completed
from perdure.api.services import Services
from perdure.core.errors import AgentError

COLLECTION_ROOTS = frozenset(
    f"/v1/{name}"
    for name in (
        "agents",
        "archives",
        "blocks",
        "conversations",
        "folders",
        "groups",
        "health",
        "mcp-servers",
        "messages",
        "models",
        "providers",
        "ready",
        "rewards",
        "rollouts",
        "runs",
        "steps",
        "tags",
        "tools",
    )
)


def create_app(services: Services, *, extra_routes: Sequence[BaseRoute] | None = None) -> ASGIApp:
    """`extra_routes` replaces the message and stream routes, which are tried first."""
    api = FastAPI(
        title="Perdure",
        version=perdure.__version__,
        description="Stateful agents whose every token is on record, over the Letta V1 API.",
        redirect_slashes=False,
        strict_content_type=False,
        docs_url="/docs",
        redoc_url=None,
    )
    api.state.services = services
    hot = list(extra_routes) if extra_routes is not None else _hot_routes()
    for router in _routers():
        api.include_router(router, prefix="/v1")
    api.router.routes.extend(hot)  # for what is not answered before: a wrong method
    api.add_exception_handler(AgentError, on_agent_error)
    api.add_exception_handler(RequestValidationError, on_validation_error)
    api.add_exception_handler(HTTPException, on_http_error)
    make_openapi = api.openapi
    api.openapi = cache(lambda: completed(make_openapi(), hot, COLLECTION_ROOTS))  # type: ignore[method-assign]
    return NormalPath(Guard(HotFirst(hot, api, CatchAll(api)), services.settings.password))


def _hot_routes() -> list[BaseRoute]:
    from perdure.api.routes import chat_completions, conversation_messages, messages, metrics, streams, trajectories

    return [
        *messages.routes,
        *streams.routes,
        *conversation_messages.routes,
        *trajectories.routes,
        *chat_completions.routes,
        *metrics.routes,
    ]


def _routers() -> list[APIRouter]:
    from perdure.api.routes import (
        absent,
        agent_blocks,
        agent_files,
        agent_tools,
        agents,
        archives,
        batches,
        blocks,
        compaction,
        conversations,
        groups,
        health,
        message_search,
        models,
        passages,
        providers,
        rollouts,
        runs,
        schedules,
        steps,
        tags,
        tools,
    )

    modules = (  # those that are asked for most come first: the paths are tried in this order
        agents,
        health,
        agent_blocks,
        agent_tools,
        archives,
        passages,
        conversations,
        groups,
        schedules,
        agent_files,
        message_search,
        batches,
        blocks,
        tools,
        models,
        providers,
        runs,
        rollouts,
        steps,
        tags,
        compaction,
        absent,
    )
    return [module.router for module in modules]


class NormalPath:
    """Makes one spelling of all: /latest becomes /v1, a trailing slash goes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/latest/"):
                path = "/v1/" + path.removeprefix("/latest/")
            if len(path) > 1 and path.endswith("/"):
                path = path.rstrip("/") or "/"
            if path != scope["path"]:
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


class HotFirst:
    """Hands a message route its request before any middleware; all else, and a wrong method, goes to the whole app."""

    def __init__(self, routes: Sequence[BaseRoute], api: FastAPI, rest: ASGIApp) -> None:
        self._api = api
        self._rest = rest
        self._anywhere: list[BaseRoute] = []
        self._by_end: dict[tuple[str, str], list[BaseRoute]] = {}  # by method and the path's last word
        for route in routes:
            if isinstance(route, Route) and "{" not in (end := route.path.rpartition("/")[2]):
                for method in route.methods or ():
                    self._by_end.setdefault((method, end), []).append(route)
            else:
                self._anywhere.append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            end = scope["path"].rpartition("/")[2]
            for route in (*self._by_end.get((scope["method"], end), ()), *self._anywhere):
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found)
                    scope["app"] = self._api
                    await route.handle(scope, receive, send)
                    return
        await self._rest(scope, receive, send)


class CatchAll:
    """Answers what no handler foresaw with a plain 500; its traceback goes to our log once, not to the server's too."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        app.add_exception_handler(Exception, _unforeseen)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            if _ANSWERED not in scope:
                raise


_ANSWERED = "perdure.answered"


async def _unforeseen(request: Request, error: Exception) -> Response:
    """Called only while nothing has been sent yet."""
    request.scope[_ANSWERED] = True
    return error_response(error)
