"""Every fault, for every provider: it ends in one error of the taxonomy, asked again only where that can help."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure.core.errors import ProviderError
from perdure.core.messages import Message, TextPart
from perdure.core.model import Prompt
from perdure.providers.anthropic import ClaudeModel, Direct
from perdure.providers.base import TokenRequest
from perdure.providers.gemini import Gemini
from perdure.providers.http import Endpoint, Http, Timeouts
from perdure.providers.llamacpp import LlamaCpp
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.openai_responses import OpenAIResponses
from perdure.providers.retries import Retries
from perdure.providers.sglang import SGLang
from perdure.providers.vllm import VLLM
from tests.doubles.wire import END, HEAD, Wire, answer, as_stream, chunk, streamed

HELLO = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
MODELS: dict[str, Callable[[Http, Endpoint], Any]] = {
    "openai_chat": lambda http, endpoint: OpenAIChat(http, endpoint, "m"),
    "openai_responses": lambda http, endpoint: OpenAIResponses(http, endpoint, "m"),
    "anthropic": lambda http, endpoint: ClaudeModel(http, Direct(endpoint), "claude-opus-4-5"),
    "gemini": lambda http, endpoint: Gemini(http, endpoint, "gemini-3"),
}
ENGINES: dict[str, Any] = {"sglang": SGLang, "vllm": VLLM, "llamacpp": LlamaCpp}
EVERYONE = [*MODELS, *ENGINES]
# How each says that a prompt does not fit: status and message.
TOO_LONG = {
    "openai_chat": (400, "This model's maximum context length is 8192 tokens. However, your messages had 9000 tokens."),
    "openai_responses": (400, "Your input exceeds the context window of this model: context_length_exceeded"),
    "anthropic": (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    "gemini": (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
    "sglang": (400, "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
    "vllm": (400, "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."),
    "llamacpp": (400, "the request exceeds the available context size, try increasing it"),
}
PAGE = b"<!doctype html><html><head><title>Bad gateway</title></head><body>nginx</body></html>"


def ask(kind: str, http: Http, url: str, **limits: Any) -> AsyncIterator[Any]:
    endpoint = Endpoint("acme", f"{url}/v1", **limits)
    if kind in MODELS:
        prompt = Prompt(model="m", system="be", messages=[HELLO], model_handle="acme/m")
        return MODELS[kind](http, endpoint).stream(prompt)
    asked = TokenRequest(
        model="tiny", ids=array("i", [1, 2]), request_id="r", max_tokens=16, stop_token_ids=(3,), vocab_size=10
    )
    return ENGINES[kind](http, endpoint).generate(asked)


async def failed(kind: str, http: Http, url: str, **limits: Any) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        async for _ in ask(kind, http, url, **limits):
            pass
    assert "acme" in raised.value.message
    return raised.value


def generations(wire: Wire) -> int:
    """How often it was asked, aborts aside."""
    return sum("abort" not in line for line, _, _ in wire.requests)


@pytest.mark.parametrize("kind", EVERYONE)
@pytest.mark.parametrize(
    ("status", "message", "meant", "asked"),
    [
        (401, "Incorrect API key provided.", "llm_authentication", 1),
        (403, "Not allowed.", "llm_authentication", 1),
        (402, "Payment required.", "llm_insufficient_credits", 1),
        (429, "You exceeded your current quota, please check your plan.", "llm_insufficient_credits", 1),
        (429, "Slow down.", "llm_rate_limit", 3),
        (400, "Unknown field.", "llm_bad_request", 1),
        (404, "No such model.", "llm_bad_request", 1),
        (500, "Oops.", "llm_error", 3),
        (503, "Overloaded.", "llm_overloaded", 3),
        (504, "Upstream took too long.", "llm_timeout", 3),
        (529, "Overloaded.", "llm_overloaded", 3),
    ],
)
async def test_a_status(http: Http, wire: Wire, kind: str, status: int, message: str, meant: str, asked: int) -> None:
    wire.answers = [answer(status, {"error": {"message": message}})]
    error = await failed(kind, http, wire.url)
    assert (error.kind, error.status) == (meant, status)
    # once each where a second address is tried
    calls = [line for line, _, _ in wire.requests]
    assert len(calls) == (len(set(calls)) if asked == 1 else asked)
    assert message.rstrip(".") in error.message


@pytest.mark.parametrize("kind", EVERYONE)
async def test_a_prompt_that_does_not_fit(http: Http, wire: Wire, kind: str) -> None:
    status, message = TOO_LONG[kind]
    wire.answers = [answer(status, {"error": {"message": message}})]
    error = await failed(kind, http, wire.url)
    assert error.kind == "context_window_exceeded" and len(wire.requests) == 1


@pytest.mark.parametrize("kind", EVERYONE)
async def test_a_proxys_page_is_told_by_its_title(http: Http, wire: Wire, kind: str) -> None:
    wire.answers = [answer(502, PAGE, content_type="text/html")]
    error = await failed(kind, http, wire.url)
    assert error.kind == "llm_connection" and "Bad gateway" in error.message and "nginx" not in error.message


@pytest.mark.parametrize("kind", EVERYONE)
async def test_a_page_in_place_of_an_answer(http: Http, wire: Wire, kind: str) -> None:
    wire.answers = [answer(200, PAGE, content_type="text/html")]
    error = await failed(kind, http, wire.url)
    assert error.kind in ("llm_connection", "llm_error", "llm_empty_response", "llm_bad_request")


@pytest.mark.parametrize("kind", EVERYONE)
async def test_retry_after_is_waited_for(wire: Wire, kind: str) -> None:
    waits: list[float] = []

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    http = Http(sleep=noted)
    wire.answers = [answer(429, {"error": {"message": "Slow down."}}, Retry_After="7")]
    await failed(kind, http, wire.url)
    await http.close()
    assert waits == [7.0, 7.0]


@pytest.mark.parametrize("kind", EVERYONE)
async def test_nobody_there(http: Http, kind: str) -> None:
    error = await failed(kind, http, "http://127.0.0.1:1")
    assert error.kind == "llm_connection"


@pytest.mark.parametrize("kind", EVERYONE)
@pytest.mark.parametrize(
    "pieces",
    [[5.0], [HEAD, chunk(b": still there\n\n"), 5.0]],
    ids=["no first byte", "silence in the middle"],
)
async def test_silence(http: Http, wire: Wire, kind: str, pieces: list[Any]) -> None:
    wire.answers = [pieces]
    limits = Timeouts(first_byte_s=0.2, between_s=0.2)
    error = await failed(kind, http, wire.url, timeouts=limits, retries=Retries(attempts=1))
    assert error.kind == "llm_timeout" and len(wire.requests) == 1


@pytest.mark.parametrize("kind", EVERYONE)
@pytest.mark.parametrize("pieces", [[HEAD, None], [HEAD + END]], ids=["dropped", "ended"])
async def test_an_answer_that_breaks_off(http: Http, wire: Wire, kind: str, pieces: list[Any]) -> None:
    wire.answers = [pieces]
    error = await failed(kind, http, wire.url)
    assert error.kind in ("llm_connection", "llm_empty_response")
    assert pieces[-1] is not None or generations(wire) == 3


@pytest.mark.parametrize("kind", EVERYONE)
async def test_attempts_are_counted_together_wherever_they_fail(http: Http, wire: Wire, kind: str) -> None:
    wire.answers = [answer(503, {"error": {"message": "Overloaded."}}), [HEAD, None]]
    error = await failed(kind, http, wire.url)
    assert error.kind == "llm_connection" and generations(wire) == 3


IN_STREAM = {
    "openai_chat": {"error": {"message": "Oops", "type": "server_error"}},
    "openai_responses": {"type": "error", "code": "server_error", "message": "Oops"},
    "anthropic": {"type": "error", "error": {"type": "overloaded_error", "message": "Oops"}},
    "gemini": {"error": {"code": 503, "message": "Oops", "status": "UNAVAILABLE"}},
    "sglang": {"error": {"message": "Oops", "type": "InternalServerError", "code": 500}},
    "vllm": {"error": {"message": "Oops", "type": "InternalServerError", "code": 500}},
}
FIRST = {
    "openai_chat": {"choices": [{"index": 0, "delta": {"content": "x"}}]},
    "openai_responses": {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "delta": "x"},
    "anthropic": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    "gemini": {"candidates": [{"content": {"parts": [{"text": "x"}]}}]},
    "sglang": {"output_ids": [7], "meta_info": {"completion_tokens": 1, "output_token_logprobs": [[-0.5, 7, None]]}},
    "vllm": {"choices": [{"token_ids": [7], "logprobs": {"content": [{"token_id": 7, "logprob": -0.5}]}}]},
}
OPENS = {
    "anthropic": [
        {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ],
    "openai_responses": [
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "i", "content": []}}
    ],
}


@pytest.mark.parametrize("kind", IN_STREAM)
async def test_an_error_in_the_stream_is_tried_again_before_output_and_never_after(
    http: Http, wire: Wire, kind: str
) -> None:
    wire.answers = [streamed([IN_STREAM[kind]])]
    error = await failed(kind, http, wire.url)
    assert "Oops" in error.message and len(wire.requests) == 3
    wire.requests.clear()
    first = as_stream([*OPENS.get(kind, ()), FIRST[kind]])
    wire.answers = [[HEAD + chunk(first), 0.05, chunk(as_stream([IN_STREAM[kind]])) + END]]
    error = await failed(kind, http, wire.url)
    assert "Oops" in error.message and not error.retryable and len(wire.requests) == 1
