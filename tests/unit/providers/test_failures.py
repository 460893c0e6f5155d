"""What providers' error answers mean."""

from typing import Any

import msgspec
import pytest

from perdure.providers.failures import DETAIL_CHARS, said, status_error


def error(status: int, body: Any, **more: Any) -> Any:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return status_error("acme", "http://acme.test/v1/chat/completions", status, raw, **more)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, "llm_bad_request", False),
        (401, "llm_authentication", False),
        (402, "llm_insufficient_credits", False),
        (403, "llm_authentication", False),
        (404, "llm_bad_request", False),
        (408, "llm_timeout", True),
        (418, "llm_bad_request", False),
        (429, "llm_rate_limit", True),
        (500, "llm_error", True),
        (502, "llm_connection", True),
        (503, "llm_overloaded", True),
        (504, "llm_timeout", True),
        (529, "llm_overloaded", True),
    ],
)
def test_statuses(status: int, kind: str, retryable: bool) -> None:
    failed = error(status, {"error": {"message": "because"}}, retry_after_s=3.0)
    assert (failed.kind, failed.retryable, failed.status, failed.retry_after_s) == (kind, retryable, status, 3.0)
    assert failed.message.startswith(f"acme answered {status}") and "because" in failed.message


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "The decoder prompt (length 18000) is longer than the maximum model length of 4096.",
        "The input (18000 tokens) is longer than the model's context length (8192 tokens).",
        "request (7200 tokens) exceeds the available context size (2048 tokens), try increasing it",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        "Please reduce the length of the messages or completion.",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 9 >= n_ctx: 8).",
        "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with context length of "
        "only 4096 tokens, which is not enough.",
        "Cannot truncate prompt with n_keep (11378) >= n_ctx (4096)",
        "prompt too long; exceeded max context length by 12 tokens",
        "invalid params, context window exceeds limit (2013)",
        "Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)",
        "Prompt exceeds max length",
        "Input length 203743 exceeds the maximum length 202752",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "Input is too long for requested model.",
        "Range of input length should be [1, 30720]",
    ],
)
def test_a_prompt_that_does_not_fit(words: str) -> None:
    failed = error(400, {"error": {"message": words}})
    assert failed.kind == "context_window_exceeded" and not failed.retryable
    assert error(401, {"error": {"message": words}}).kind == "llm_authentication"


def test_a_context_code_counts_too() -> None:
    assert error(400, {"error": {"message": "no", "code": "context_length_exceeded"}}).kind == "context_window_exceeded"


@pytest.mark.parametrize("status", [400, 403, 429])
def test_no_credits_is_no_rate_limit(status: int) -> None:
    failed = error(status, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
    assert failed.kind == "llm_insufficient_credits" and not failed.retryable


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "a", "type": "t"}}, "a"),
        ({"error": "b"}, "b"),
        ({"object": "error", "message": "c", "code": 400}, "c"),
        ({"detail": [{"loc": ["body"], "msg": "d"}]}, "d"),
        ({"errors": [{"message": "e"}]}, "e"),
        ([{"error": {"message": "f"}}], "f"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "g"}}}, "Provider returned error: g"),
        ({"error": {}}, '{"error":{}}'),
        (b"plain\n  text", "plain text"),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"<html><head><title>502 Bad\n Gateway</title></head>", "an HTML page ('502 Bad\\n Gateway')"),
        (b"<!DOCTYPE html><p>", "an HTML page"),
    ],
)
def test_words(body: Any, words: str) -> None:
    assert said(body if isinstance(body, bytes) else msgspec.json.encode(body)) == words


def test_bodies_are_cut() -> None:
    failed = error(500, b"x" * 100_000)
    assert len(failed.message) < DETAIL_CHARS + 200 and len(failed.detail) == DETAIL_CHARS


def test_a_redirect_says_what_to_set() -> None:
    assert "base URL" in error(308, b"").message


def test_a_wrong_path_is_shown() -> None:
    assert "http://acme.test/v1/chat/completions" in error(404, {"error": "Not Found"}).message
