"""Gemini's own API over the wire: the request as sent, its models, and conversations the API would take."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.messages import Message, TextPart, ToolCall, ToolReturn
from perdure.core.model import Chunk, ModelDone, Prompt, ToolSpec
from perdure.providers.configs import ProviderConfig
from perdure.providers.gemini import Gemini
from perdure.providers.http import Endpoint, Http
from perdure.providers.registry import Registry
from tests.doubles.gemini import GeminiDouble
from tests.doubles.openai_chat import calls, failure, text
from tests.doubles.wire import Wire, answer

TOOLS = [ToolSpec("f", "does", {"type": "object", "properties": {"x": {"type": "integer"}}})]
HELLO = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))


@pytest.fixture
def double() -> Iterator[GeminiDouble]:
    made = GeminiDouble()
    yield made
    made.close()


def prompt(messages: Any = (HELLO,), **more: Any) -> Prompt:
    return Prompt(model="gemini-3", system="be", messages=messages, model_handle="acme/gemini-3", **more)


def at(http: Http, double: GeminiDouble, **more: Any) -> Gemini:
    return Gemini(http, Endpoint("acme", f"{double.base_url}/v1beta"), "gemini-3", **more)


async def ask(model: Gemini, asked: Prompt | None = None) -> tuple[list[Chunk], ModelDone]:
    items = [item async for batch in model.stream(asked or prompt()) for item in batch]
    assert isinstance(items[-1], ModelDone)
    return [item for item in items[:-1] if not isinstance(item, ModelDone)], items[-1]


async def body_for(http: Http, wire: Wire, asked: Prompt, name: str = "gemini-3-pro", **more: Any) -> dict[str, Any]:
    wire.answers = [answer(200, {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]})]
    await ask(Gemini(http, Endpoint("acme", f"{wire.url}/v1beta"), name, **more), asked)
    line, _, body = wire.requests[-1]
    method = "generateContent" if more.get("stream") is False else "streamGenerateContent?alt=sse"
    assert line == f"POST /v1beta/models/{name}:{method}"
    sent = msgspec.json.decode(body)
    assert sent.pop("contents") == [{"role": "user", "parts": [{"text": "hi"}]}]
    assert sent.pop("systemInstruction") == {"parts": [{"text": "be"}]}
    return sent


async def test_the_least_that_is_sent(http: Http, wire: Wire) -> None:
    shown = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    assert await body_for(http, wire, prompt()) == shown
    assert await body_for(http, wire, prompt(), "gemini-2.5-flash", stream=False) == shown
    assert await body_for(http, wire, prompt(), "gemma-3-27b") == {}


async def test_settings_as_sent(http: Http, wire: Wire) -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "additionalProperties": False}
    settings = ModelSettings(
        temperature=0.5,
        top_p=0.9,
        top_k=20,
        max_output_tokens=99,
        seed=7,
        stop=("END",),
        frequency_penalty=0.1,
        presence_penalty=0.2,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    )
    asked = prompt(settings=settings, want_logprobs=True, top_logprobs=3)
    assert (await body_for(http, wire, asked, "gemini-2.0-flash"))["generationConfig"] == {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 20,
        "maxOutputTokens": 99,
        "seed": 7,
        "stopSequences": ["END"],
        "frequencyPenalty": 0.1,
        "presencePenalty": 0.2,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "object", "properties": {"a": {"type": "string", "nullable": True}}},
        "responseLogprobs": True,
        "logprobs": 3,
    }


@pytest.mark.parametrize(
    ("model", "settings", "thinking"),
    [
        ("gemini-3-pro", {"reasoning_effort": "low"}, {"includeThoughts": True, "thinkingLevel": "low"}),
        ("gemini-3-flash-preview", {"enable_thinking": False}, {"includeThoughts": True, "thinkingLevel": "minimal"}),
        ("gemini-3.1-flash-lite", {"reasoning_effort": "none"}, {"includeThoughts": True, "thinkingLevel": "minimal"}),
        ("gemini-3.8-flash", {"reasoning_effort": "minimal"}, {"includeThoughts": True, "thinkingLevel": "low"}),
        ("gemini-3.1-pro-preview", {"enable_thinking": False}, {"includeThoughts": True, "thinkingLevel": "low"}),
        ("gemini-2.5-pro", {"enable_thinking": False}, {"includeThoughts": True, "thinkingBudget": 128}),
        ("gemini-2.5-pro", {"reasoning_effort": "medium"}, {"includeThoughts": True, "thinkingBudget": 8192}),
        ("gemini-2.5-flash", {"enable_thinking": False}, {"includeThoughts": True, "thinkingBudget": 0}),
        (
            "gemini-2.5-flash",
            {"raw": {"thinking_config": {"include_thoughts": False, "thinking_budget": 512}}},
            {"includeThoughts": False, "thinkingBudget": 512},
        ),
    ],
)
async def test_how_much_to_think(http: Http, wire: Wire, model: str, settings: Any, thinking: Any) -> None:
    body = await body_for(http, wire, prompt(settings=ModelSettings(**settings)), model)
    assert body["generationConfig"]["thinkingConfig"] == thinking


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("f", {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
async def test_tool_choice(http: Http, wire: Wire, choice: str, sent: Any) -> None:
    body = await body_for(http, wire, prompt(tools=TOOLS, tool_choice=choice))
    assert body.get("toolConfig") == (None if sent is None else {"functionCallingConfig": sent})
    assert body["tools"][0]["functionDeclarations"][0]["parameters"]["properties"] == {"x": {"type": "integer"}}
    assert "toolConfig" not in await body_for(http, wire, prompt(tool_choice=choice))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_the_api_would_take(http: Http, double: GeminiDouble, stream: bool) -> None:
    """Two rounds of tools in one turn: the double refuses a call whose signature does not come back."""
    model = at(http, double, stream=stream)
    double.script(
        {**calls([("a", "f", {"x": 1}), ("b", "f", {})], content="So."), "reasoning": "Two."},
        calls([("c", "f", {})]),
        text("Done.", reasoning="Enough."),
        text("Bye."),
    )
    messages = [HELLO]
    for number in range(4):
        _, done = await ask(model, prompt(messages, tools=TOOLS))
        said = {"content": done.content, "tool_calls": done.tool_calls, "calls_at": done.calls_at}
        first = f"message-{2 * number + 2}"
        messages.append(Message(id=first, role="assistant", created_us=1, model="acme/gemini-3", **said))
        returns = tuple(ToolReturn(call.id, call.name, "success", "1") for call in done.tool_calls)
        then = {"role": "tool", "tool_returns": returns} if returns else {"role": "user", "content": (TextPart("go"),)}
        messages.append(Message(id=f"{first}-then", created_us=1, **then))  # type: ignore[arg-type]
    assert messages[5].content[1] == TextPart("Done.", "c2VhbGVkIDM=")
    assert double.requests[3]["contents"][5]["parts"] == [{"text": "Done.", "thoughtSignature": "c2VhbGVkIDM="}]
    unsigned = msgspec.structs.replace(messages[1], id="x", tool_calls=(ToolCall("a", "f", "{}"),))
    returned = msgspec.structs.replace(messages[2], id="y", tool_returns=messages[2].tool_returns[:1])
    double.strict = True
    await ask(model, prompt([HELLO, unsigned, returned], tools=TOOLS))  # what stands in for it is taken
    bare = Gemini(http, Endpoint("acme", f"{double.base_url}/v1beta"), "gemini-2.5-pro")
    with pytest.raises(ProviderError, match="missing a `thought_signature`"):
        await ask(bare, prompt([HELLO, unsigned, returned], tools=TOOLS))


async def test_signatures_of_another_account_are_left_out(http: Http, double: GeminiDouble) -> None:
    said = Message(
        id="message-2",
        role="assistant",
        created_us=1,
        tool_calls=(ToolCall("a", "f", "{}", "b3RoZXI="),),
        model="acme/g",
    )
    returned = Message(id="message-3", role="tool", created_us=1, tool_returns=(ToolReturn("a", "f", "success", "1"),))
    await ask(at(http, double), prompt([HELLO, said, returned]))
    sent = [each["contents"][1]["parts"][0]["thoughtSignature"] for each in double.requests]
    assert sent == ["b3RoZXI=", "skip_thought_signature_validator"]


async def test_a_refused_prompt_and_an_error_answer(http: Http, double: GeminiDouble) -> None:
    double.script({"blocked": "SAFETY"}, failure(400, {"error": {"code": 400, "message": "API key not valid."}}))
    with pytest.raises(ProviderError, match="refused the prompt: SAFETY"):
        await ask(at(http, double))
    with pytest.raises(ProviderError) as failed:
        await ask(at(http, double))
    assert failed.value.kind == "llm_authentication"


async def test_its_models(http: Http, double: GeminiDouble) -> None:
    config = ProviderConfig(name="google_ai", kind="google_ai", base_url=double.base_url, api_key="key-1")
    registry = Registry([config], http=http)
    found = {info.handle: (info.kind, info.context_window, info.endpoint_type) for info in await registry.list_models()}
    assert found == {
        "google_ai/gemini-test": ("llm", 1_048_576, "google_ai"),
        "google_ai/embedding-test": ("embedding", 2_048, "google_ai"),
    }
    resolved = await registry.resolve("google_ai/gemini-test")
    await ask(resolved.model)  # type: ignore[arg-type]
    assert double.paths == ["/v1beta/models/gemini-test:streamGenerateContent?alt=sse"]
    assert double.keys == ["key-1", "key-1"]
