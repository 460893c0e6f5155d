"""The Responses API over the wire: the request as sent, and what is asked again without what the account may not have."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.messages import Message, ReasoningPart, TextPart, ToolReturn
from perdure.core.model import Chunk, ModelDone, Prompt, ToolSpec
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_responses import OpenAIResponses
from tests.doubles.openai_chat import calls, failure, text
from tests.doubles.openai_responses import ResponsesDouble
from tests.doubles.wire import Wire, answer

TOOLS = [ToolSpec("f", "does", {"type": "object", "properties": {}})]
HELLO = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
ANSWER = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [{"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "x"}]}],
}


@pytest.fixture
def double() -> Iterator[ResponsesDouble]:
    made = ResponsesDouble()
    yield made
    made.close()


def prompt(messages: Any = (HELLO,), **more: Any) -> Prompt:
    return Prompt(model="gpt-5", system="be", messages=messages, model_handle="acme/gpt-5", **more)


async def ask(model: OpenAIResponses, asked: Prompt | None = None) -> tuple[list[Chunk], ModelDone]:
    items = [item async for batch in model.stream(asked or prompt()) for item in batch]
    assert isinstance(items[-1], ModelDone)
    return [item for item in items[:-1] if not isinstance(item, ModelDone)], items[-1]


async def body_for(http: Http, wire: Wire, asked: Prompt, name: str = "gpt-5", **more: Any) -> dict[str, Any]:
    wire.answers = [answer(200, ANSWER)]
    await ask(OpenAIResponses(http, Endpoint("acme", f"{wire.url}/v1"), name, **more), asked)
    line, _, body = wire.requests[-1]
    assert line == "POST /v1/responses"
    sent = msgspec.json.decode(body)
    assert (sent.pop("store"), sent.pop("instructions"), sent.pop("model")) == (False, "be", name)
    assert sent.pop("input") == [{"type": "message", "role": "user", "content": "hi"}]
    assert sent.pop("stream", False) is more.get("stream", True)
    return sent


async def test_the_least_that_is_sent(http: Http, wire: Wire) -> None:
    sealed = ["reasoning.encrypted_content"]
    assert await body_for(http, wire, prompt()) == {"include": sealed, "reasoning": {"summary": "auto"}}
    assert await body_for(http, wire, prompt(), "some-model", stream=False) == {"include": sealed}
    assert await body_for(http, wire, prompt(), "gpt-4.1") == {}


async def test_settings_as_sent(http: Http, wire: Wire) -> None:
    settings = ModelSettings(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=99,
        reasoning_effort="low",
        reasoning_summary="detailed",
        verbosity="high",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    )
    asked = prompt(settings=settings, want_logprobs=True, top_logprobs=3)
    shape = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "high"}
    assert await body_for(http, wire, asked) == {
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "detailed"},
        "max_output_tokens": 99,
        "text": shape,
    }
    assert await body_for(http, wire, asked, "gpt-4.1") == {
        "include": ["message.output_text.logprobs"],
        "max_output_tokens": 99,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_logprobs": 3,
        "text": shape,
    }
    plain = await body_for(http, wire, prompt(settings=ModelSettings(reasoning_summary="none")))
    assert "reasoning" not in plain
    wire.answers = [answer(200, ANSWER)]
    objects = prompt(settings=ModelSettings(response_format={"type": "json_object"}))
    await ask(OpenAIResponses(http, Endpoint("acme", wire.url), "gpt-5"), objects)
    sent = msgspec.json.decode(wire.requests[-1][2])
    assert sent["text"] == {"format": {"type": "json_object"}} and "JSON" in sent["instructions"]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [("auto", None), ("none", "none"), ("required", "required"), ("f", {"type": "function", "name": "f"})],
)
async def test_tool_choice(http: Http, wire: Wire, choice: str, sent: Any) -> None:
    body = await body_for(http, wire, prompt(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False))
    assert body.get("tool_choice") == sent and body["parallel_tool_calls"] is False
    assert body["tools"][0]["name"] == "f"
    assert "tool_choice" not in await body_for(http, wire, prompt(tool_choice=choice))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_the_api_would_take(http: Http, double: ResponsesDouble, stream: bool) -> None:
    """Two rounds of tools in one turn: the double refuses every request in which reasoning does not come back as it was."""
    model = OpenAIResponses(http, Endpoint("acme", double.base_url), "gpt-5", stream=stream)
    double.script(
        {**calls([("a", "f", {"x": 1}), ("b", "f", "{}")], content="So."), "reasoning": ["One.", "Two."]},
        {**calls([("c", "f", {})]), "reasoning": ""},
        text("Done.", reasoning="Three."),
        text("Bye."),
    )
    messages = [HELLO]
    for number in range(4):
        _, done = await ask(model, prompt(messages, tools=TOOLS))
        number = 2 * number + 2
        said = {"content": done.content, "tool_calls": done.tool_calls, "calls_at": done.calls_at}
        messages.append(Message(id=f"message-{number}", role="assistant", created_us=1, model="acme/gpt-5", **said))
        returns = tuple(ToolReturn(call.id, call.name, "success", "1") for call in done.tool_calls)
        then = {"role": "tool", "tool_returns": returns} if returns else {"role": "user", "content": (TextPart("go"),)}
        messages.append(Message(id=f"message-{number + 1}", created_us=1, **then))  # type: ignore[arg-type]
    assert [item["type"] for item in double.requests[3]["input"]] == [
        "message",
        *("reasoning", "message", "function_call", "function_call", "function_call_output", "function_call_output"),
        *("reasoning", "function_call", "function_call_output"),
        *("reasoning", "message", "message"),
    ]
    assert messages[1].content[0].text == "One.\n\nTwo."  # type: ignore[union-attr]
    stripped = [msgspec.structs.replace(each, id=f"{each.id}x", content=()) for each in messages[:3]]
    with pytest.raises(ProviderError, match="without its required 'reasoning' item"):
        await ask(model, prompt(stripped))


async def test_a_failed_and_an_incomplete_response(http: Http, double: ResponsesDouble) -> None:
    model = OpenAIResponses(http, Endpoint("acme", double.base_url), "gpt-5")
    oops = {"error": {"code": "server_error", "message": "Oops"}}
    double.script({"content": "Once upon", "finish": "length"}, oops, oops, oops)
    assert (await ask(model))[1].finish == "length"
    with pytest.raises(ProviderError, match="Oops"):
        await ask(model)


async def test_an_account_that_may_not_see_summaries_is_asked_without_them(http: Http, double: ResponsesDouble) -> None:
    why = "Your organization must be verified to generate reasoning summaries. Please go to settings."
    double.script(failure(400, {"error": {"message": why, "param": "reasoning.summary"}}))
    model = OpenAIResponses(http, Endpoint("acme", double.base_url), "gpt-5")
    await ask(model)
    await ask(model)
    assert ["reasoning" in each for each in double.requests] == [True, False, False]


async def test_reasoning_of_another_account_is_left_out(http: Http, double: ResponsesDouble) -> None:
    thought = ReasoningPart("Hm.", signature='{"id":"rs_99","encrypted":"foreign","cut":[["s",3]]}')
    content = (thought, TextPart("Hi.", '{"id":"msg_99"}'))
    said = Message(id="message-2", role="assistant", created_us=1, content=content, model="acme/gpt-5")
    then = Message(id="message-3", role="user", created_us=1, content=(TextPart("go"),))
    model = OpenAIResponses(http, Endpoint("acme", double.base_url), "gpt-5")
    _, done = await ask(model, prompt([HELLO, said, then]))
    assert isinstance(done.content[0], TextPart)
    assert [len(each["input"]) for each in double.requests] == [4, 3]
    assert double.requests[1]["input"][1] == {"type": "message", "role": "assistant", "content": "Hi."}


async def test_other_refusals_are_told(http: Http, double: ResponsesDouble) -> None:
    double.script(failure(400, {"error": {"message": "No such model", "param": "model"}}))
    with pytest.raises(ProviderError, match="No such model"):
        await ask(OpenAIResponses(http, Endpoint("acme", double.base_url), "gpt-5"))
    assert len(double.requests) == 1
