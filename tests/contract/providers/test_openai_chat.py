"""Chat completions over the wire: the request as sent, answers streamed and whole, recorded engines, faults."""

from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.messages import Message, ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, ModelDone, Prompt, TextChunk, ToolSpec
from perdure.providers.dialects import ChatProfile
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.profiles import profile_of
from tests.doubles.openai_chat import OpenAIDouble, calls, text
from tests.doubles.wire import END, HEAD, Wire, answer, as_stream, chunk, sample, streamed

TOOLS = [ToolSpec("f", "does", {"type": "object", "properties": {}})]


def prompt(**more: Any) -> Prompt:
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
    return Prompt(model="gpt-test", system="be", messages=[hello], **more)


async def ask(model: OpenAIChat, asked: Prompt | None = None) -> tuple[list[Chunk], ModelDone]:
    items = [item async for batch in model.stream(asked or prompt()) for item in batch]
    assert isinstance(items[-1], ModelDone)
    return [item for item in items[:-1] if not isinstance(item, ModelDone)], items[-1]


def over(http: Http, wire: Wire, **more: Any) -> OpenAIChat:
    return OpenAIChat(http, Endpoint("acme", f"{wire.url}/v1"), "gpt-test", **more)


FORM = {"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "object"}}}


async def body_for(http: Http, wire: Wire, asked: Prompt, model: str = "m", **profile: Any) -> dict[str, Any]:
    wire.answers = [
        streamed([{"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}, "[DONE]"])
    ]
    await ask(OpenAIChat(http, Endpoint("acme", wire.url), model, ChatProfile(**profile)), asked)
    line, _, body = wire.requests[-1]
    assert line == "POST /chat/completions"
    sent = msgspec.json.decode(body)
    assert sent.pop("messages") == [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    assert sent.pop("model") == model and sent.pop("stream") is True
    return sent


async def test_the_least_that_is_sent(http: Http, wire: Wire) -> None:
    assert await body_for(http, wire, prompt()) == {"stream_options": {"include_usage": True}}
    assert await body_for(http, wire, prompt(), stream_usage=False) == {}


async def test_settings_as_sent(http: Http, wire: Wire) -> None:
    settings = ModelSettings(
        temperature=0.5,
        top_p=0.9,
        top_k=20,
        min_p=0.1,
        max_output_tokens=99,
        seed=7,
        stop=("END",),
        frequency_penalty=0.1,
        presence_penalty=0.2,
        repetition_penalty=1.1,
        reasoning_effort="low",
        enable_thinking=False,
        response_format=FORM,
    )
    asked = prompt(settings=settings, want_logprobs=True, top_logprobs=3)
    plain = await body_for(http, wire, asked, stream_usage=False)
    assert plain == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 99,
        "seed": 7,
        "stop": ["END"],
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "reasoning_effort": "low",
        "response_format": FORM,
        "logprobs": True,
        "top_logprobs": 3,
    }
    engine = profile_of("sglang").chat
    more = await body_for(http, wire, asked, sampling=engine.sampling, template_kwargs=True)
    assert (more["top_k"], more["min_p"], more["repetition_penalty"]) == (20, 0.1, 1.1)
    assert more["chat_template_kwargs"] == {"enable_thinking": False}
    odd = await body_for(http, wire, asked, seed="random_seed", max_tokens="max_completion_tokens", penalties=False)
    assert (odd["random_seed"], odd["max_completion_tokens"]) == (7, 99) and "presence_penalty" not in odd


async def test_what_a_model_refuses_is_left_out(http: Http, wire: Wire) -> None:
    settings = ModelSettings(temperature=0.5, max_output_tokens=9, reasoning_effort="low")
    sent = await body_for(
        http, wire, prompt(settings=settings, want_logprobs=True), "openai/gpt-5-mini", stream_usage=False
    )
    assert sent == {"max_completion_tokens": 9, "reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("choice", "profile", "sent"),
    [
        ("auto", {}, None),
        ("none", {}, "none"),
        ("required", {}, "required"),
        ("required", {"required": "any"}, "any"),
        ("required", {"required": None}, None),
        ("f", {}, {"type": "function", "function": {"name": "f"}}),
        ("f", {"named": False}, "required"),
    ],
)
async def test_tool_choice(http: Http, wire: Wire, choice: str, profile: Any, sent: Any) -> None:
    body = await body_for(http, wire, prompt(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False), **profile)
    assert body.get("tool_choice") == sent and body["parallel_tool_calls"] is False
    assert body["tools"][0]["function"]["name"] == "f"
    assert "tool_choice" not in await body_for(http, wire, prompt(tool_choice=choice), **profile)


@pytest.mark.parametrize("stream", [True, False])
async def test_answers_of_the_double(http: Http, stream: bool) -> None:
    double = OpenAIDouble()
    try:
        model = OpenAIChat(http, Endpoint("double", double.base_url), "gpt-test", stream=stream)
        double.script(text("hé llo\n", reasoning="hm"), calls([("a", "f", {"x": 1}), ("b", "g", "{")], content="so"))
        chunks, done = await ask(model)
        assert done.content == (ReasoningPart("hm"), TextPart("hé llo\n"))
        assert "".join(each.text for each in chunks if isinstance(each, TextChunk)) == "hé llo\n"
        assert done.usage.total_tokens == 15 and done.exchange is not None
        assert msgspec.json.decode(done.exchange.request) == double.requests[0]
        _, done = await ask(model)
        assert done.tool_calls == (ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{"))
        assert done.finish == "tool_calls" and done.content == (TextPart("so"),)
        assert all(bool(body.get("stream")) is stream for body in double.requests)
    finally:
        double.close()


async def test_recorded_streams_cut_anywhere(http: Http, wire: Wire) -> None:
    for name in ("sglang-chat-stream", "vllm-chat-stream"):
        frames = sample(name)["frames"]
        wire.answers = [streamed(frames)]
        chunks, done = await ask(over(http, wire))
        assert done.usage.completion_tokens > 0 and isinstance(done.content[0], TextPart)
        raw = as_stream(frames)
        for size in (1, 7, 100):
            pieces = [chunk(raw[at : at + size]) for at in range(0, len(raw), size)]
            wire.answers = [[HEAD + b"".join(pieces) + END]]
            again, same = await ask(over(http, wire))
            assert (same.content, same.usage, again) == (done.content, done.usage, chunks)


async def test_a_recorded_whole_answer(http: Http, wire: Wire) -> None:
    told = sample("sglang-chat")["response"]
    wire.answers = [answer(200, told)]
    chunks, done = await ask(over(http, wire, stream=False))
    assert done.content == (TextPart(told["choices"][0]["message"]["content"]),) == (TextPart(chunks[0].text),)  # type: ignore[union-attr]
    assert done.usage.prompt_tokens == told["usage"]["prompt_tokens"]


async def test_a_server_that_does_not_stream_is_read_all_the_same(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]})]
    assert (await ask(over(http, wire)))[1].content == (TextPart("x"),)


async def test_a_stream_that_breaks_off(http: Http, wire: Wire) -> None:
    first = as_stream([{"choices": [{"index": 0, "delta": {"content": "x"}}]}])
    for end in ([None], [END]):
        wire.answers = [[HEAD + chunk(first), *end]]
        with pytest.raises(ProviderError) as cut:
            await ask(over(http, wire))
        assert cut.value.kind == "llm_connection" and not cut.value.retryable
        assert len(wire.requests) == 1
        wire.requests.clear()


async def test_closing_the_stream_drops_the_connection(http: Http, wire: Wire) -> None:
    first = as_stream([{"choices": [{"index": 0, "delta": {"content": "x"}}]}])
    wire.answers = [[HEAD + chunk(first), 5.0]]
    stream = over(http, wire).stream(prompt())
    assert list(await anext(stream)) == [TextChunk("x")]
    await stream.aclose()
    for _ in range(100):
        if wire.closed_by_client:
            return
        await _pause()
    raise AssertionError("still open")


async def test_an_error_in_the_stream(http: Http, wire: Wire) -> None:
    wire.answers = [streamed([{"error": {"message": "Rate limit", "code": 429}}])]
    with pytest.raises(ProviderError) as failed:
        await ask(over(http, wire))
    assert failed.value.kind == "llm_rate_limit" and failed.value.retryable


async def test_why_tokens_are_not_on_record_is_on_every_answer(http: Http, wire: Wire) -> None:
    wire.answers = [
        streamed([{"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}, "[DONE]"])
    ]
    assert (await ask(over(http, wire, not_exact="no tokenizer")))[1].not_exact == "no tokenizer"
    assert (await ask(over(http, wire)))[1].not_exact is None


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(0.02)
