"""An agent as the model of the official OpenAI SDK: sync, async, streamed; usage, errors, what is sent of a history."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from letta_client import Letta
from openai import AsyncOpenAI, OpenAI

from tests.doubles.openai_chat import OpenAIDouble, call, calls, failure, text
from tests.e2e.conftest import ServerProcess

ROLL = '''
def roll(sides: int) -> str:
    """Roll a die.

    Args:
        sides (int): how many sides it has
    """
    return f"rolled {sides}"
'''


@pytest.fixture(scope="module")
def chat(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def test_an_answer_with_its_usage_and_the_id_of_its_run(
    client: Letta, chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("Hello."))
    answer = chat.chat.completions.create(model=agent.id, messages=[user("Hi")])
    assert answer.choices[0].message.content == "Hello."
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.object, answer.model) == ("chat.completion", agent.id)
    assert answer.usage is not None and answer.usage.total_tokens == 15
    run = client.runs.retrieve(answer.id.removeprefix("chatcmpl-"))
    assert run.agent_id == agent.id and run.status == "completed"
    assert engine.requests[-1]["messages"][-1] == {"role": "user", "content": "Hi"}


async def test_the_async_client_waits_and_streams(
    server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("One."), text("Two."))
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as chat:
        answer = await chat.chat.completions.create(model=agent.id, messages=[user("Hi")])
        assert answer.choices[0].message.content == "One."
        stream = await chat.chat.completions.create(model=agent.id, messages=[user("More")], stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(said) == "Two."


def test_a_stream_is_cut_as_the_engine_cut_it_and_ends_with_the_usage_asked_for(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("Hello there.", pieces=3, reasoning="Greet."))
    chunks = list(
        chat.chat.completions.create(
            model=agent.id, messages=[user("Hi")], stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas if delta.content] == ["Hell", "o th", "ere."]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Greet."
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 15
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].id.startswith("chatcmpl-run-")


def test_the_agents_own_tools_stay_inside(
    client: Letta, chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tool_ids=[client.tools.upsert(source_code=ROLL).id])
    for stream in (False, True):
        engine.script(call("roll", {"sides": 6}, content="Rolling."), text("It rolled 6."))
        if stream:
            chunks = list(chat.chat.completions.create(model=agent.id, messages=[user("Roll")], stream=True))
            assert all(not chunk.choices[0].delta.tool_calls for chunk in chunks)
            content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            answer = chat.chat.completions.create(model=agent.id, messages=[user("Roll")])
            assert answer.choices[0].message.tool_calls is None
            assert answer.usage is not None and answer.usage.total_tokens == 30
            content, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert (content, finish) == ("Rolling.\n\nIt rolled 6.", "stop")


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather here",
        "parameters": {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
    },
}


def test_a_tool_of_the_caller_is_run_by_the_caller(
    client: Letta, chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tool_ids=[client.tools.upsert(source_code=ROLL).id])
    history: list[Any] = [user("And outside?")]
    engine.script(call("weather", {"day": "today"}, content="I look.", id="call_7"), text("It rains."))
    asked = chat.chat.completions.create(model=agent.id, messages=history, tools=[WEATHER]).choices[0]
    assert asked.finish_reason == "tool_calls" and asked.message.content == "I look."
    assert asked.message.tool_calls is not None
    (made,) = asked.message.tool_calls
    assert made.type == "function" and (made.id, made.function.name) == ("call_7", "weather")
    assert made.function.arguments == '{"day": "today"}'
    assert {tool["function"]["name"] for tool in engine.requests[-1]["tools"]} == {"roll", "weather"}
    history += [asked.message.model_dump(), {"role": "tool", "tool_call_id": "call_7", "content": "rain"}]
    done = chat.chat.completions.create(model=agent.id, messages=history, tools=[WEATHER]).choices[0]
    assert (done.message.content, done.finish_reason) == ("It rains.", "stop")
    returned = [m for m in engine.requests[-1]["messages"] if m["role"] == "tool"]
    assert returned == [{"role": "tool", "tool_call_id": "call_7", "content": "rain"}]


def test_calls_of_the_callers_tools_are_streamed_and_answered_together(
    client: Letta, chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tool_ids=[client.tools.upsert(source_code=ROLL).id])
    wanted: Any = [("c1", "weather", {"day": "a"}), ("c2", "roll", {"sides": 4}), ("c3", "weather", {"day": "b"})]
    engine.script(calls(wanted), text("Done."))
    chunks = list(chat.chat.completions.create(model=agent.id, messages=[user("?")], tools=[WEATHER], stream=True))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    made: dict[int, list[str]] = {}
    for piece in pieces:
        assert piece.function is not None
        made.setdefault(piece.index, [piece.id or "", ""])[1] += piece.function.arguments or ""
    assert made == {0: ["c1", '{"day": "a"}'], 1: ["c3", '{"day": "b"}']}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    results: Any = [{"role": "tool", "tool_call_id": key, "content": f"sun {key}"} for key in ("c1", "c3")]
    later = [*results, user("Thanks")]
    answer = chat.chat.completions.create(model=agent.id, messages=later, tools=[WEATHER], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == "Done."
    sent = engine.requests[-1]["messages"]
    assert {m["tool_call_id"]: m["content"] for m in sent if m["role"] == "tool"} == {
        "c1": "sun c1",
        "c2": "rolled 4",
        "c3": "sun c3",
    }
    assert sent[-1]["content"] == "Thanks"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_of_the_callers_tools_can_be_required(
    client: Letta, chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any], choice: Any
) -> None:
    agent = new_agent(tool_ids=[client.tools.upsert(source_code=ROLL).id])
    engine.script(call("weather", {"day": "today"}, id="call_7"), text("Rain."))
    asked = chat.chat.completions.create(model=agent.id, messages=[user("?")], tools=[WEATHER], tool_choice=choice)
    assert asked.choices[0].finish_reason == "tool_calls"
    sent = engine.requests[-1]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["weather"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    result: Any = {"role": "tool", "tool_call_id": "call_7", "content": "rain"}
    done = chat.chat.completions.create(model=agent.id, messages=[result], tools=[WEATHER])
    assert done.choices[0].message.content == "Rain."
    assert client.agents.retrieve(agent.id).tool_rules == []


def test_tools_that_may_not_be_called_are_not_offered(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    chat.chat.completions.create(model=new_agent().id, messages=[user("?")], tools=[WEATHER], tool_choice="none")
    assert "tools" not in engine.requests[-1]


def test_a_result_that_answers_no_call_is_refused(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    stray: Any = [{"role": "tool", "tool_call_id": "call_0", "content": "rain"}]
    with pytest.raises(openai.BadRequestError, match="No tool call is currently awaiting"):
        chat.chat.completions.create(model=agent.id, messages=stray)
    engine.script(call("weather", {"day": "today"}, id="call_7"))
    chat.chat.completions.create(model=agent.id, messages=[user("?")], tools=[WEATHER])
    with pytest.raises(openai.ConflictError):
        chat.chat.completions.create(model=agent.id, messages=[user("Never mind")], tools=[WEATHER])
    with pytest.raises(openai.BadRequestError, match="call_7"):
        chat.chat.completions.create(model=agent.id, messages=stray, tools=[WEATHER])


def test_of_a_whole_history_only_what_is_new_is_sent(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("A1"), text("A2"))
    history: list[Any] = [{"role": "system", "content": "Be rude."}, user("U1")]
    first = chat.chat.completions.create(model=agent.id, messages=history)
    history += [{"role": "assistant", "content": first.choices[0].message.content}, user("U2"), user("U3")]
    chat.chat.completions.create(model=agent.id, messages=history)
    sent = engine.requests[-1]["messages"][1:]
    assert [(message["role"], message["content"]) for message in sent] == [
        ("user", "U1"),
        ("assistant", "A1"),
        ("user", "U2"),
        ("user", "U3"),
    ]
    assert "Be rude." not in engine.requests[-1]["messages"][0]["content"]


def test_settings_of_the_request_count_for_it_alone(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(model_settings={"provider_type": "openai", "temperature": 0.5, "max_output_tokens": 99})
    chat.chat.completions.create(
        model=agent.id, messages=[user("Hi")], temperature=0.1, max_completion_tokens=7, seed=3, stop=["END"]
    )
    sent = engine.requests[-1]
    assert (sent["temperature"], sent["max_tokens"], sent["seed"], sent["stop"]) == (0.1, 7, 3, ["END"])
    chat.chat.completions.create(model=agent.id, messages=[user("Hi")])
    sent = engine.requests[-1]
    assert (sent["temperature"], sent["max_tokens"]) == (0.5, 99)
    assert "seed" not in sent and "stop" not in sent


def test_an_agent_can_be_called_by_its_name_as_long_as_no_other_has_it(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    new_agent(name="the clerk")
    answer = chat.chat.completions.create(model="the clerk", messages=[user("Hi")])
    assert answer.choices[0].message.content == "ok"
    new_agent(name="the clerk")
    with pytest.raises(openai.BadRequestError) as refused:
        chat.chat.completions.create(model="the clerk", messages=[user("Hi")])
    assert refused.value.param == "model" and "several" in refused.value.message


def test_a_conversation_can_be_called_by_its_id(
    client: Letta, chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    conversation = client.conversations.create(agent_id=new_agent().id)
    engine.script(text("Here."))
    answer = chat.chat.completions.create(model=conversation.id, messages=[user("Hi")])
    assert answer.choices[0].message.content == "Here."
    run = client.runs.retrieve(answer.id.removeprefix("chatcmpl-"))
    assert run.conversation_id == conversation.id


def test_images_reach_the_agent(chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    url = "data:image/png;base64,iVBORw0KGgo="
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    chat.chat.completions.create(model=agent.id, messages=[user(parts)])
    content = engine.requests[-1]["messages"][-1]["content"]
    assert content[0] == {"type": "text", "text": "What is it?"}
    assert content[1]["image_url"]["url"] == url


def test_the_same_idempotency_key_is_one_turn(
    client: Letta, chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("First."), text("Second."))
    headers = {"Idempotency-Key": f"key-{agent.id}"}
    ask: dict[str, Any] = {"model": agent.id, "messages": [user("Hi")], "extra_headers": headers}
    answers = [chat.chat.completions.create(**ask) for _ in range(2)]
    assert [answer.choices[0].message.content for answer in answers] == ["First.", "First."]
    assert answers[0].id == answers[1].id
    again = chat.chat.completions.create(**ask, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in again) == "First."
    assert len([m for m in client.agents.messages.list(agent.id).items if m.message_type == "user_message"]) == 1


def test_an_answer_that_was_cut_says_so(chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    engine.script(text("Once upon", finish="length"))
    answer = chat.chat.completions.create(model=agent.id, messages=[user("A tale")])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Once upon", "length")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "assistant", "content": "I"}]}, "messages", None),
        ({"messages": [{"role": "judge", "content": "I"}]}, "messages[0].role", None),
        ({"messages": [user([{"type": "input_audio", "input_audio": {}}])]}, "messages[0].content[0]", None),
        ({"messages": [user("")]}, "messages[0].content", None),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"temperature": "hot"}, "temperature", None),
        ({"temperature": 99}, "request.temperature", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [WEATHER]}, "tool_choice", None),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"response_format": {"type": "xml"}}, "request.response_format.type", None),
    ],
)
def test_a_wrong_request_is_refused_in_openais_shape_naming_the_field(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any], fields: Any, param: str, code: str | None
) -> None:
    agent = new_agent()
    with pytest.raises(openai.BadRequestError) as refused:
        chat.chat.completions.create(**{"model": agent.id, "messages": [user("Hi")], **fields})
    error = refused.value
    assert (error.type, error.param, error.code) == ("invalid_request_error", param, code)
    assert engine.requests == []


@pytest.mark.parametrize(
    "model", ["agent-123e4567-e89b-42d3-8456-426614174000", "nobody", "conv-123e4567-e89b-42d3-8456-426614174000"]
)
def test_a_model_that_is_no_agent_is_not_found(chat: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        chat.chat.completions.create(model=model, messages=[user("Hi")])
    assert refused.value.type == "not_found_error"


def test_a_failure_of_the_provider_is_told_in_openais_shape(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(failure(401, {"error": {"message": "bad key"}}))
    with pytest.raises(openai.AuthenticationError) as refused:
        chat.chat.completions.create(model=agent.id, messages=[user("Hi")])
    assert refused.value.code == "llm_authentication" and "bad key" in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"
    engine.script(failure(401, {"error": {"message": "bad key"}}))
    with pytest.raises(openai.APIError) as broken:
        list(chat.chat.completions.create(model=agent.id, messages=[user("Hi")], stream=True))
    assert "bad key" in broken.value.message


def test_the_password_is_asked_for_in_openais_shape(own_server: Callable[..., ServerProcess]) -> None:
    server = own_server(PERDURE_PASSWORD="secret")
    with pytest.raises(openai.AuthenticationError) as refused:
        OpenAI(base_url=f"{server.url}/v1", api_key="wrong").chat.completions.create(model="x", messages=[user("Hi")])
    assert refused.value.type == "authentication_error"
    with pytest.raises(openai.NotFoundError):
        OpenAI(base_url=f"{server.url}/v1", api_key="secret").chat.completions.create(model="x", messages=[user("Hi")])


@pytest.mark.parametrize("stream", [False, True])
def test_the_callers_own_tools_are_called_and_answered(
    chat: OpenAI, engine: OpenAIDouble, new_agent: Callable[..., Any], stream: bool
) -> None:
    agent = new_agent()
    function = {"name": "read_file", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}
    tools: Any = [{"type": "function", "function": function}]
    engine.script(call("read_file", {"path": "a"}, id="call_7"), text("It says 42."))
    asked: Any = chat.chat.completions.create(model=agent.id, messages=[user("Read a")], tools=tools, stream=stream)
    if stream:
        chunks = [chunk.choices[0] for chunk in asked]
        pieces = [piece for chunk in chunks for piece in chunk.delta.tool_calls or ()]
        assert (pieces[0].id, pieces[0].function.name) == ("call_7", "read_file")
        assert "".join(piece.function.arguments or "" for piece in pieces) == '{"path": "a"}'
        assert chunks[-1].finish_reason == "tool_calls"
    else:
        assert asked.choices[0].finish_reason == "tool_calls"
        assert asked.choices[0].message.tool_calls[0].function.arguments == '{"path": "a"}'
    made = {"id": "call_7", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a"}'}}
    history: Any = [
        user("Read a"),
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_7", "content": "42"},
    ]
    answer = chat.chat.completions.create(model=agent.id, messages=history, tools=tools)
    assert answer.choices[0].message.content == "It says 42."
    assert engine.requests[-1]["messages"][-1]["content"] == "42"
