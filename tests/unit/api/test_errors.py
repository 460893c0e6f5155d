"""Every class of error has one meaning over HTTP."""

import json
from typing import Any

import pytest

from perdure.api.errors import error_response, run_error_response
from perdure.core.errors import (
    AgentError,
    Conflict,
    Gone,
    Invalid,
    LeaseLost,
    NotFound,
    ProviderError,
    StaleBlock,
    StoreError,
    ToolError,
    Unavailable,
)
from perdure.core.events import RunFailed


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (Invalid("why"), 400, {"detail": "why"}),
        (NotFound("why"), 404, {"detail": "why"}),
        (Conflict("why"), 409, {"detail": "why"}),
        (Conflict("why", run_id="run-1"), 409, {"detail": "why", "run_id": "run-1"}),
        (Conflict("why", detail={"code": "PENDING_APPROVAL"}), 409, {"detail": {"code": "PENDING_APPROVAL"}}),
        (Gone("why"), 410, {"detail": "why"}),
        (Unavailable("why"), 503, {"detail": "why"}),
        (ToolError("why"), 400, {"detail": "why"}),
        (StaleBlock("block-1"), 409, {"detail": StaleBlock("block-1").message}),
        (StoreError("inner secret"), 503, {"detail": "The database is not available. Try again."}),
        (LeaseLost("inner"), 503, {"detail": "The database is not available. Try again."}),
        (AgentError("inner secret"), 500, {"detail": "An unknown error occurred"}),
        (RuntimeError("inner secret"), 500, {"detail": "An unknown error occurred"}),
        (ProviderError("why", kind="llm_overloaded"), 503, {"detail": "why"}),
        (ProviderError("why", kind="context_window_exceeded"), 400, {"detail": "why"}),
    ],
)
def test_status_and_body(error: Exception, status: int, body: dict[str, Any]) -> None:
    answer = error_response(error)
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, body)


@pytest.mark.parametrize(
    ("kind", "status", "wire_type"),
    [
        ("llm_timeout", 504, "llm_timeout"),
        ("llm_rate_limit", 429, "llm_rate_limit"),
        ("llm_insufficient_credits", 402, "llm_insufficient_credits"),
        ("llm_authentication", 401, "llm_authentication"),
        ("llm_bad_request", 400, "llm_bad_request"),
        ("llm_connection", 502, "llm_error"),
        ("llm_empty_response", 500, "llm_error"),
        ("llm_error", 500, "llm_error"),
    ],
)
def test_a_models_failure(kind: Any, status: int, wire_type: str) -> None:
    answer = error_response(ProviderError("why", kind=kind, detail="more"))
    assert answer.status_code == status
    assert json.loads(bytes(answer.body)) == {"error": {"type": wire_type, "message": "why", "detail": "more"}}
    assert "x-should-retry" not in answer.headers


def test_a_failure_of_an_accepted_run_is_not_retried() -> None:
    answer = run_error_response(RunFailed("run-1", "llm_rate_limit", "why", "more"), {})
    assert answer.status_code == 429 and answer.headers["x-should-retry"] == "false"
    for kind, status in (("invalid", 400), ("not_found", 404), ("internal_error", 500), ("llm_overloaded", 503)):
        answer = run_error_response(RunFailed("run-1", kind, "why"), {})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (status, "false")


def test_conflicts_say_whether_to_try_again() -> None:
    assert error_response(Conflict("busy")).headers["x-should-retry"] == "false"
    again = error_response(Conflict("locked", retry=True))
    assert "x-should-retry" not in again.headers and again.headers["retry-after"] == "1"
    assert error_response(Unavailable("full", retry_after_s=3.4)).headers["retry-after"] == "3"


def test_a_wrong_shape_carries_a_trace_id_and_examples() -> None:
    body = json.loads(bytes(error_response(Invalid("field: why", status=422, examples=["agent-x"])).body))
    assert body["detail"] == "field: why" and body["examples"] == ["agent-x"] and body["trace_id"]
