"""Our errors in OpenAI's shape: `{"error": {message, type, param, code}}`, with the statuses they have everywhere.

The status and the retry headers are those of `errors.py`; only the body differs.
"""

import re
from typing import Any

import msgspec
from starlette.responses import Response

from perdure.api.errors import error_response, json_response
from perdure.core.errors import Invalid

# status -> OpenAI's word for the kind of error; other 4xx are invalid requests, other 5xx server errors
_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_PARAM = re.compile(r"([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): ")


class ChatInvalid(Invalid):
    """A request that is wrong in OpenAI's terms. `param`: the field; `code`: OpenAI's word for what is wrong, if it has one."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message, status=status)
        self.param = param
        self.code = code


def error_body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def openai_response(error: Exception) -> Response:
    """The answer to a chat completion that ended in `error`. The shape of a body being wrong is a 400 there, not a 422."""
    if isinstance(error, ChatInvalid):
        return json_response(error_body(error.message, error.status, param=error.param, code=error.code), error.status)
    return in_openai_shape(error_response(error))


def in_openai_shape(answer: Response) -> Response:
    """One of our error answers with its body put into OpenAI's shape."""
    status = 400 if answer.status_code == 422 else answer.status_code
    message, code = _said(msgspec.json.decode(answer.body))
    found = _PARAM.match(message)
    headers = {name: value for name, value in answer.headers.items() if name not in ("content-length", "content-type")}
    body = error_body(message, status, param=found[1] if found else None, code=code)
    return json_response(body, status, headers)


def _said(body: dict[str, Any]) -> tuple[str, str | None]:
    """(message, code) of an error body of ours, whichever of its forms it has."""
    inner = body.get("error")
    if isinstance(inner, dict):
        detail = f" {inner['detail']}" if inner.get("detail") and inner["detail"] != inner["message"] else ""
        return f"{inner['message']}{detail}", inner.get("type")
    detail = body.get("message") or body.get("detail")
    if isinstance(detail, dict):
        return str(detail.get("message") or detail), detail.get("code")
    return str(detail), None
