"""`response_format` with the real SDK: sent to the provider, checked here, asked for again, and an error in the end."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta, UnprocessableEntityError
from openai import OpenAI

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import frames, post

SCHEMA = {"type": "object", "properties": {"boats": {"type": "integer"}}, "required": ["boats"]}
FORM = {"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA}}
COUNT = '''
def count(quay: str, fast: int = 5) -> str:
    """Count.

    Args:
        quay (str): which quay
        fast (int): how fast
    """
    return f"{quay} at {fast}"
'''


@pytest.fixture
def counter(new_agent: Callable[..., Any]) -> Any:
    return new_agent(model_settings={"provider_type": "openai", "response_format": FORM})


def test_the_form_goes_to_the_provider_and_a_fitting_answer_is_one_step(
    client: Letta, engine: OpenAIDouble, counter: Any
) -> None:
    engine.script(text('{"boats": 3}'))
    answer = client.agents.messages.create(agent_id=counter.id, input="How many?")
    assert json.loads(answer.messages[-1].content) == {"boats": 3}
    assert answer.usage.step_count == 1
    assert engine.requests[-1]["response_format"] == FORM
    assert client.agents.retrieve(counter.id).response_format.json_schema == FORM["json_schema"]


def test_the_deprecated_place_counts_too(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(response_format=FORM)
    engine.script(text('{"boats": 3}'))
    client.agents.messages.create(agent_id=agent.id, input="How many?")
    assert engine.requests[-1]["response_format"] == FORM
    client.agents.update(agent.id, response_format={"type": "text"})
    client.agents.messages.create(agent_id=agent.id, input="Just say it.")
    assert "response_format" not in engine.requests[-1]


def test_a_wrong_answer_is_told_and_asked_for_again_with_all_on_record(
    client: Letta, engine: OpenAIDouble, counter: Any
) -> None:
    engine.script(text("Three."), text('{"boats": "three"}'), text('{"boats": 3}'))
    answer = client.agents.messages.create(agent_id=counter.id, input="How many?")
    assert [m.content for m in answer.messages] == ["Three.", '{"boats": "three"}', '{"boats": 3}']
    assert (answer.stop_reason.stop_reason, answer.usage.step_count) == ("end_turn", 3)
    told = [m["content"] for m in engine.requests[-1]["messages"] if m["role"] == "user"]
    assert "not valid JSON" in told[1] and json.dumps(SCHEMA) in told[1]
    assert "the answer.boats must be integer, not 'three'" in told[2]
    listed = client.agents.messages.list(agent_id=counter.id, order="asc").items
    assert [m.content for m in listed if m.message_type == "user_message"] == ["How many?"]


def test_after_two_corrections_the_run_fails_and_says_why(client: Letta, engine: OpenAIDouble, counter: Any) -> None:
    engine.script(text("One."), text("Two."), text("Three."), text('{"boats": 4}'))
    with pytest.raises(APIStatusError) as failed:
        client.agents.messages.create(agent_id=counter.id, input="How many?")
    assert "without the form that response_format asks for" in str(failed.value.body)
    assert failed.value.response.headers["x-should-retry"] == "false"
    run = client.runs.list(agent_id=counter.id).items[0]
    assert (run.status, run.stop_reason) == ("failed", "invalid_llm_response")
    steps = client.runs.steps.list(run.id).items
    assert sorted(str(step.status) for step in steps) == ["failed", "success", "success"]
    said = [
        m.content
        for m in client.agents.messages.list(counter.id, order="asc").items
        if m.message_type == "assistant_message"
    ]
    assert said == ["One.", "Two.", "Three."]
    assert client.agents.messages.create(agent_id=counter.id, input="Again?").messages[-1].content == '{"boats": 4}'


def test_a_stream_ends_with_the_error(server: ServerProcess, engine: OpenAIDouble, counter: Any) -> None:
    engine.script(text("One."), text("Two."), text("Three."))
    body = {"input": "How many?", "streaming": True, "stream_tokens": True}
    _, raw = post(f"{server.url}/v1/agents/{counter.id}/messages", body)
    stop, failure, done = frames(raw)[-3:]
    assert stop == {"message_type": "stop_reason", "stop_reason": "invalid_llm_response"}
    assert failure[0] == "error" and "response_format" in failure[1]["message"]
    assert done == "[DONE]"


def test_max_steps_bounds_the_corrections(client: Letta, engine: OpenAIDouble, counter: Any) -> None:
    engine.script(text("One."), text('{"boats": 1}'))
    with pytest.raises(APIStatusError, match="answered once without"):
        client.agents.messages.create(agent_id=counter.id, input="How many?", max_steps=1)
    engine.turns.clear()


def test_tools_are_called_before_the_formed_answer(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    tool = client.tools.upsert(source_code=COUNT)
    agent = new_agent(tool_ids=[tool.id], response_format=FORM)
    engine.script(call("count", {"quay": "east"}, content="Let me look."), text('{"boats": 3}'))
    answer = client.agents.messages.create(agent_id=agent.id, input="How many?")
    assert answer.messages[-1].content == '{"boats": 3}' and answer.usage.step_count == 2


def test_the_openai_endpoint_gives_the_checked_answer_alone(
    server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    chat = OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
    ask: dict[str, Any] = {"model": agent.id, "messages": [{"role": "user", "content": "?"}], "response_format": FORM}
    engine.script(text("Three."), text('{"boats": 3}'))
    assert chat.chat.completions.create(**ask).choices[0].message.content == '{"boats": 3}'
    engine.script(text("Four."), text('{"boats": 4}'))
    chunks = list(chat.chat.completions.create(**ask, stream=True))
    assert [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content] == ['{"boats": 4}']


def test_strict_tools_are_closed_and_their_nulls_mean_left_out(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    tool = client.tools.upsert(source_code=COUNT)
    agent = new_agent(tool_ids=[tool.id], model_settings={"provider_type": "openai", "strict": True})
    engine.script(call("count", {"quay": "east", "fast": None}), text("Done."))
    answer = client.agents.messages.create(agent_id=agent.id, input="Count")
    function = engine.requests[-1]["tools"][0]["function"]
    assert function["strict"] is True
    assert function["parameters"]["required"] == ["quay", "fast"]
    assert function["parameters"]["additionalProperties"] is False
    assert "null" in function["parameters"]["properties"]["fast"]["type"]
    returned = next(m for m in answer.messages if m.message_type == "tool_return_message")
    assert (returned.status, returned.tool_return) == ("success", "east at 5")


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"type": "yaml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://x.test"}}},
            "response_format.json_schema.schema: $ref",
        ),
    ],
)
def test_a_form_that_cannot_be_is_refused(client: Letta, form: Any, told: str) -> None:
    for fields in ({"response_format": form}, {"model_settings": {"response_format": form}}):
        with pytest.raises(UnprocessableEntityError) as refused:
            client.agents.create(model="openai/gpt-test", **fields)
        assert told in str(refused.value.body)
