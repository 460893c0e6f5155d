"""Anthropic's own address over the wire: listings, names, retries, and thinking an account will not take back."""

import asyncio
import json
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.messages import Message, ReasoningPart, TextPart
from perdure.core.model import Chunk, ModelDone, Prompt, TextChunk, ToolSpec
from perdure.providers.anthropic import AnthropicProvider, ClaudeModel, Direct
from perdure.providers.configs import ProviderConfig, ProviderOptions
from perdure.providers.http import Endpoint, Http
from perdure.providers.registry import Registry
from tests.contract.conversations import Call, Failure, Said, Text
from tests.contract.translators.anthropic_messages import AnthropicSpeaker
from tests.doubles.wire import END, HEAD, Wire, answer, chunk

SAID = Said(items=(Text(("Hel", "lo.")),))
TOOL = ToolSpec("f", "does", {"type": "object", "properties": {}})


def streamed(said: Said = SAID) -> list[bytes | float | None]:
    return [HEAD + chunk(AnthropicSpeaker().streamed(said)) + END]


def prompt(**more: Any) -> Prompt:
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
    return Prompt(**{"model": "m", "system": "be", "messages": [hello], **more})


async def ask(model: Any, **more: Any) -> tuple[list[Chunk], ModelDone]:
    items = [item async for batch in model.stream(prompt(**more)) for item in batch]
    assert isinstance(items[-1], ModelDone)
    return items[:-1], items[-1]


def provider(http: Http, wire: Wire, **options: Any) -> AnthropicProvider:
    config = ProviderConfig(
        name="anthropic", kind="anthropic", base_url=wire.url, api_key="sk-ant", options=ProviderOptions(**options)
    )
    return AnthropicProvider(config, http)


def of(http: Http, wire: Wire, name: str = "claude-opus-4-5", **more: Any) -> ClaudeModel:
    headers = more.pop("headers", {"x-api-key": "k", "anthropic-version": "2023-06-01"})
    return ClaudeModel(http, Direct(Endpoint("anthropic", f"{wire.url}/v1", headers=headers)), name, **more)


LISTED = {
    "data": [
        {"type": "model", "id": "claude-opus-4-5-20251101", "display_name": "x", "max_input_tokens": 300_000},
        {"type": "model", "id": "claude-haiku-4-5-20251001", "display_name": "x"},
        {"type": "model", "id": "claude-sonnet-4-20250514", "display_name": "x"},
    ],
    "has_more": False,
}


async def test_the_list_and_its_windows(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, LISTED)]
    listed = await provider(http, wire).list_models()
    assert [(info.handle, info.context_window) for info in listed] == [
        ("anthropic/claude-opus-4-5-20251101", 300_000),
        ("anthropic/claude-haiku-4-5-20251001", 200_000),
        ("anthropic/claude-sonnet-4-20250514", 200_000),
    ]
    line, headers, _ = wire.requests[0]
    assert line == "GET /v1/models?limit=1000"
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant", "2023-06-01")
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("claude-opus-4-5", "claude-opus-4-5-20251101"),
        ("claude-haiku-4-5-latest", "claude-haiku-4-5-20251001"),
        ("claude-sonnet-4-0", "claude-sonnet-4-20250514"),
        ("claude-opus-4", None),
        ("claude-opus-4-6", None),
    ],
)
async def test_names_without_a_date(http: Http, wire: Wire, name: str, found: str | None) -> None:
    wire.answers = [answer(200, LISTED)]
    info, _ = await provider(http, wire).find(name)
    assert (info.name if info else None) == found


async def test_a_server_that_cannot_be_asked_is_trusted_and_the_window_known(http: Http, wire: Wire) -> None:
    wire.answers = [answer(404, {"error": "no such route"})]
    config = ProviderConfig(name="anthropic", kind="anthropic", base_url=wire.url)
    resolved = await Registry([config], http=http).resolve("anthropic/claude-opus-5")
    assert resolved.info is not None and resolved.info.context_window == 1_000_000


async def test_an_error_before_any_output_is_tried_again(http: Http, wire: Wire) -> None:
    failed = streamed(Said(failure=Failure(529, "Overloaded")))
    wire.answers = [failed, failed, streamed()]
    chunks, _ = await ask(of(http, wire))
    assert chunks == [TextChunk("Hel"), TextChunk("lo.")] and len(wire.requests) == 3


async def test_an_error_after_output_is_not(http: Http, wire: Wire) -> None:
    wire.answers = [streamed(Said(items=(Text(("a",)),), failure=Failure(529, "Overloaded")))]
    with pytest.raises(ProviderError) as raised:
        await ask(of(http, wire))
    assert raised.value.kind == "llm_overloaded" and not raised.value.retryable and len(wire.requests) == 1


async def test_an_error_that_stays_ends_after_three_attempts(http: Http, wire: Wire) -> None:
    wire.answers = [streamed(Said(failure=Failure(529, "Overloaded")))]
    with pytest.raises(ProviderError):
        await ask(of(http, wire))
    assert len(wire.requests) == 3


BOUND = (
    "messages.1.content.0: Invalid `signature` in `thinking` block. The block is bound to a different conversation. "
    'Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
)


async def test_thinking_whose_context_changed_is_left_out_from_then_on(http: Http, wire: Wire) -> None:
    refused = answer(400, {"type": "error", "error": {"type": "invalid_request_error", "message": BOUND}})
    wire.answers = [refused, streamed(), streamed()]
    model = of(http, wire, "claude-opus-5-5")
    assert (await ask(model))[1].finish == "stop"
    await ask(model)
    bodies = [json.loads(body) for _, _, body in wire.requests]
    assert ["block_binding" in body["thinking"] for body in bodies] == [False, True, True]
    betas = [headers.get("anthropic-beta") for _, headers, _ in wire.requests]
    assert betas == [None, *["thinking-binding-controls-2026-08-01"] * 2]


async def test_thinking_of_another_server_is_left_out_of_the_call(http: Http, wire: Wire) -> None:
    """A signature that does not hold would otherwise stop the conversation for good."""
    said = "messages.1.content.0: Invalid `signature` in `thinking` block"
    refused = answer(400, {"type": "error", "error": {"type": "invalid_request_error", "message": said}})
    wire.answers = [refused, streamed(), refused]
    thought = Message(
        id="message-2",
        role="assistant",
        created_us=2,
        model="anthropic/m",
        content=(ReasoningPart("a", signature="s"), TextPart("b")),
    )
    model = of(http, wire)
    await ask(model, messages=[thought])
    kinds = [[block["type"] for block in json.loads(body)["messages"][1]["content"]] for _, _, body in wire.requests]
    assert kinds == [["thinking", "text"], ["text"]]
    with pytest.raises(ProviderError, match="Invalid `signature`"):
        await ask(model, messages=[thought])
    assert len(wire.requests) == 4


async def test_a_refusal_that_stays_is_told(http: Http, wire: Wire) -> None:
    wire.answers = [answer(400, {"type": "error", "error": {"type": "invalid_request_error", "message": BOUND}})]
    with pytest.raises(ProviderError, match="bound to a different conversation"):
        await ask(of(http, wire, "claude-opus-5-5"))
    assert len(wire.requests) == 3  # as it was, with unbound thinking dropped, without any


async def test_beta_features_of_the_configuration_are_kept(http: Http, wire: Wire) -> None:
    wire.answers = [streamed()]
    thinking = ModelSettings(enable_thinking=True, thinking_budget=2000)
    model = of(http, wire, headers={"anthropic-beta": "mine-1"})
    await ask(model, settings=thinking, tools=[TOOL])
    await ask(model)
    betas = [headers["anthropic-beta"] for _, headers, _ in wire.requests]
    assert betas == ["mine-1,interleaved-thinking-2025-05-14", "mine-1"]


async def test_a_model_of_the_earliest_kind_gets_no_marks(http: Http, wire: Wire) -> None:
    wire.answers = [streamed()]
    await ask(of(http, wire, "claude-3-opus-20240229"), tools=[TOOL])
    assert b"cache_control" not in wire.requests[0][2] and b"eager_input_streaming" not in wire.requests[0][2]


async def test_strict_tools_and_json_are_asked_for(http: Http, wire: Wire) -> None:
    wire.answers = [streamed()]
    strict = ToolSpec("f", "does", {"type": "object", "properties": {}}, strict=True)
    wanted = ModelSettings(response_format={"type": "json_object"})
    await ask(of(http, wire), tools=[strict], settings=wanted)
    sent = json.loads(wire.requests[0][2])
    assert sent["tools"][0]["strict"] is True and "eager_input_streaming" not in sent["tools"][0]
    assert [block["text"].split()[0] for block in sent["system"]] == ["be", "Answer"]
    assert ["cache_control" in block for block in sent["system"]] == [False, True]


async def test_a_whole_answer_where_a_stream_was_asked_for(http: Http, wire: Wire) -> None:
    whole = AnthropicSpeaker().whole(Said(items=(Call("t1", "f", ("{}",)),), finish="tool_calls"))
    assert whole is not None
    wire.answers = [answer(200, json.loads(whole[1]))]
    assert [call.id for call in (await ask(of(http, wire)))[1].tool_calls] == ["t1"]


async def test_leaving_the_stream_drops_the_connection(http: Http, wire: Wire) -> None:
    body = AnthropicSpeaker().streamed(SAID)
    wire.answers = [[HEAD + chunk(body[: body.index(b"text_delta") + 60]), 5.0, END]]
    stream = of(http, wire).stream(prompt())
    async for _ in stream:
        break
    await stream.aclose()
    for _ in range(100):
        if wire.closed_by_client:
            break
        await asyncio.sleep(0.01)
    assert wire.closed_by_client == 1
