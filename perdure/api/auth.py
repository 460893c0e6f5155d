"""Who may call: a password, when one is set, compared in constant time; and whose `user_id` a request may carry.

Pure ASGI, so that streams pass through untouched. Answers here never reach a route.
"""

import hmac

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.api.errors import json_response
from perdure.api.openai_errors import error_body
from perdure.core.ids import matches

OPEN_PATHS = frozenset({"/v1/health", "/v1/ready"})
OPENAI_PATHS = frozenset({"/v1/chat/completions"})


class Guard:
    """`password` None: everyone may call. Paths are normalised already: `/v1` prefix, no trailing slash."""

    def __init__(self, app: ASGIApp, password: str | None) -> None:
        self._app = app
        self._password = password.encode() if password is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._password is not None and scope["path"] not in OPEN_PATHS and not self._allowed(headers):
            await _refusal(scope["path"], "Unauthorized", 401)(scope, receive, send)
            return
        user_id = headers.get("user_id")
        if user_id is not None and not matches("user", user_id):
            detail = f"The header user_id is {user_id!r}; it must be 'user-{{uuid4}}', or be left out"
            await _refusal(scope["path"], detail, 400)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _allowed(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._same(token.strip()):
            return True
        word, _, bare = headers.get("x-bare-password", "").partition(" ")
        return word.lower() == "password" and self._same(bare.strip())

    def _same(self, given: str) -> bool:
        assert self._password is not None
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._password)


def _refusal(path: str, detail: str, status: int) -> Response:
    body = error_body(detail, status) if path in OPENAI_PATHS else {"detail": detail}
    return json_response(body, status)
