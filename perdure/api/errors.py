"""Our errors as HTTP answers: status, body and retry headers, said once for every route.

A client that retries by itself must not repeat what cannot succeed or was already accepted: such answers carry
`x-should-retry: false`.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from perdure.core.errors import (
    AgentError,
    Conflict,
    Gone,
    Invalid,
    NotFound,
    ProviderError,
    StaleBlock,
    Stopping,
    StoreError,
    ToolError,
    Unavailable,
)
from perdure.core.events import RunFailed
from perdure.core.vault import WrongKey

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

UNKNOWN = {"detail": "An unknown error occurred"}
_NO_RETRY = {"x-should-retry": "false"}
# kind of ProviderError -> (status, the wire's error type)
_PROVIDER: dict[str, tuple[int, str]] = {
    "llm_timeout": (504, "llm_timeout"),
    "llm_rate_limit": (429, "llm_rate_limit"),
    "llm_insufficient_credits": (402, "llm_insufficient_credits"),
    "llm_authentication": (401, "llm_authentication"),
    "llm_bad_request": (400, "llm_bad_request"),
    "llm_connection": (502, "llm_error"),
    "llm_empty_response": (500, "llm_error"),
    "llm_error": (500, "llm_error"),
}


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers=dict(headers or {}), media_type="application/json")


def error_response(error: Exception) -> Response:
    """The answer to a request that ended in `error`. Anything that is not one of ours is logged and answered with 500."""
    if (wrong := _unstorable(error)) is not None:
        return validation_response(wrong)
    match error:
        case Invalid(status=422):
            return validation_response(error.message, error.examples)
        case Invalid():
            return _detail(error, error.status)
        case NotFound():
            return _detail(error, 404)
        case Conflict():
            return _conflict(error)
        case Gone():
            return _detail(error, 410)
        case Unavailable():
            return _detail(error, 503, {"Retry-After": _seconds(error.retry_after_s)})
        case ProviderError():
            return _provider(error.kind, error.message, error.detail, error.retry_after_s)
        case ToolError():
            return _detail(error, 400)
        case WrongKey():
            return _detail(error, 500, _NO_RETRY)
        case StaleBlock():
            return _detail(error, 409, {"Retry-After": "1"})
        case Stopping():
            return _detail(error, 503, {"Retry-After": "1"})
        case StoreError():
            log.error("The database failed", exc_info=error)
            return json_response({"detail": "The database is not available. Try again."}, 503, {"Retry-After": "1"})
        case _:
            log.error("A request failed unexpectedly", exc_info=error)
            return json_response(UNKNOWN, 500)


def _unstorable(error: BaseException) -> str | None:
    """What no field's own check finds: numbers and text that cannot be stored."""
    inner = error.__cause__ if isinstance(error, StoreError) else error
    if isinstance(inner, OverflowError):
        return "A number in the request is too large (more than 64 bits)."
    if isinstance(inner, UnicodeEncodeError):
        return "A text in the request is not valid Unicode: it holds half of a surrogate pair."
    return None


def _detail(error: AgentError, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return json_response({"detail": error.message}, status, headers)


def _conflict(error: Conflict) -> Response:
    body: dict[str, Any] = {"detail": error.detail if error.detail is not None else error.message}
    if error.run_id is not None:
        body["run_id"] = error.run_id
    return json_response(body, 409, {"Retry-After": "1"} if error.retry else _NO_RETRY)


def _provider(
    kind: str, message: str, detail: str | None, retry_after_s: float | None, *, accepted: bool = False
) -> Response:
    """`accepted`: the request's run is on record, so sending it again would be a second turn."""
    headers = dict(_NO_RETRY) if accepted else {}
    if retry_after_s is not None:
        headers["Retry-After"] = _seconds(retry_after_s)
    if kind == "llm_overloaded":
        return json_response({"detail": message}, 503, headers)
    if kind == "context_window_exceeded":
        return json_response({"detail": message}, 400, headers)
    status, wire_type = _PROVIDER.get(kind, _PROVIDER["llm_error"])
    return json_response({"error": {"type": wire_type, "message": message, "detail": detail}}, status, headers)


def run_error_response(failed: RunFailed, record: Mapping[str, Any]) -> Response:
    """The answer to who waited for a run that failed. `record`: the run's stored error."""
    kind = failed.error_type
    if kind in _PROVIDER or kind in ("llm_overloaded", "context_window_exceeded"):
        return _provider(kind, failed.message, failed.detail or record.get("detail"), None, accepted=True)
    status = {"not_found": 404, "invalid": 400, "conflict": 409}.get(kind)
    if status is not None:
        return json_response({"detail": record.get("body") or failed.message}, status, _NO_RETRY)
    if kind == "context_window_overflow_in_system_prompt":
        return json_response({"detail": failed.message}, 400, _NO_RETRY)
    return json_response(UNKNOWN | {"message": failed.message}, 500, _NO_RETRY)


def _seconds(value: float) -> str:
    return str(max(1, round(value)))


def validation_response(detail: str, examples: Sequence[str] | None = None) -> Response:
    body: dict[str, Any] = {"trace_id": uuid.uuid4().hex, "detail": detail}
    if examples:
        body["examples"] = list(examples)
    return json_response(body, 422)


async def on_agent_error(_: Request, error: Exception) -> Response:
    return error_response(error)


async def on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return json_response({"detail": error.detail}, error.status_code, error.headers)


async def on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = list(error.errors())
    for problem in problems:
        if problem["loc"][0] == "path":
            return _bad_path_id(problem)
    return validation_response("; ".join(_said(problem) for problem in problems))


def _bad_path_id(problem: Mapping[str, Any]) -> Response:
    """A malformed id in the path: what it should look like, and an example."""
    name = str(problem["loc"][-1])
    prefix = _prefix_of(problem)
    if prefix is None:
        return validation_response(_said(problem))
    return validation_response(
        f"{name}: {problem.get('input')!r} should match pattern '{prefix}-{{uuid4}}'",
        [f"{prefix}-123e4567-e89b-42d3-8456-426614174000"],
    )


def _prefix_of(problem: Mapping[str, Any]) -> str | None:
    pattern = (problem.get("ctx") or {}).get("pattern", "")
    head, dash, _ = pattern.removeprefix("^").partition("-[0-9a-f]")
    return head if dash else None


def _said(problem: Mapping[str, Any]) -> str:
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "json_invalid":
        reason = (problem.get("ctx") or {}).get("error", problem["msg"])
        return f"The body is not valid JSON: {reason} at character {place[-1]}"
    where = ".".join(place[1:]) or place[0]
    return f"{where}: {problem['msg']}"
