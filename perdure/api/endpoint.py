"""A route's handler as a bare ASGI app: the hot path goes through no wrapper but this one."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.api.errors import error_response

Handler = Callable[[Request], Awaitable[ASGIApp]]


class Endpoint:
    """Whatever the handler raises becomes its answer."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.__doc__ = handler.__doc__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._handler(Request(scope, receive))
        except Exception as error:  # classified, and logged where it is not one of ours
            response = error_response(error)
        await response(scope, receive, send)


def route(method: str, path: str, handler: Handler, name: str) -> Route:
    return Route(path, Endpoint(handler), methods=[method], name=name)
