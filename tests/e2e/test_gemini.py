"""Agents on Gemini's own API, through a real server: signatures go back on the calls they came on, over turns and restarts.

The double refuses a request as the API does where a call of the turn lacks its signature.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.gemini import GeminiDouble
from tests.doubles.openai_chat import calls, failure, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_openai_responses import ROLL


@pytest.fixture(scope="module")
def shared_double() -> Iterator[GeminiDouble]:
    made = GeminiDouble()
    yield made
    made.close()


@pytest.fixture
def double(shared_double: GeminiDouble) -> Iterator[GeminiDouble]:
    yield shared_double
    shared_double.reset()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_double: GeminiDouble) -> Iterator[ServerProcess]:
    env = {"GEMINI_BASE_URL": shared_double.base_url, "GEMINI_API_KEY": "key-test"}
    process = ServerProcess(tmp_path_factory.mktemp("perdure"), env)
    yield process
    process.stop()


def agent_with_dice(client: Letta, **more: Any) -> Any:
    tool = client.tools.upsert(source_code=ROLL)
    fields = {"model": "google_ai/gemini-test", "include_base_tools": False, "tool_ids": [tool.id], **more}
    return client.agents.create(**fields)


def test_thinking_and_tools_over_several_turns(server: ServerProcess, double: GeminiDouble) -> None:
    client = Letta(base_url=server.url, max_retries=0)
    agent = agent_with_dice(client)
    assert agent.llm_config.context_window == 1_048_576
    double.script(
        {**calls([("a", "roll", {"sides": 6}), ("b", "roll", {"sides": 8})], content="Rolling."), "reasoning": "Dice."},
        calls([("c", "roll", {"sides": 4})]),
        text("All rolled.", reasoning="Enough."),
    )
    answer = client.agents.messages.create(agent_id=agent.id, input="Roll")
    assert [message.message_type for message in answer.messages] == [
        *("reasoning_message", "assistant_message", "tool_call_message", "tool_return_message"),
        *("tool_call_message", "tool_return_message", "reasoning_message", "assistant_message"),
    ]
    assert answer.usage.reasoning_tokens == 6
    server.kill()
    server.start()
    double.script(calls([("d", "roll", {"sides": 3})]), text("Bye."))
    with client.agents.messages.stream(agent_id=agent.id, input="Again", stream_tokens=True) as stream:
        kinds = [event.message_type for event in stream]
    assert "tool_return_message" in kinds and kinds[-2:] == ["stop_reason", "usage_statistics"]
    contents = double.requests[-1]["contents"]
    roles = ("user", "model", "user", "model", "user", "model", "user", "model", "user")
    assert tuple(content["role"] for content in contents) == roles
    signed = [
        part["thoughtSignature"] for content in contents for part in content["parts"] if "thoughtSignature" in part
    ]
    assert len(signed) == 4 and len(set(signed)) == 4
    assert [part["functionCall"]["id"] for part in contents[1]["parts"][1:]] == ["a", "b"]


def test_what_gemini_refuses_leaves_a_usable_agent(server: ServerProcess, double: GeminiDouble) -> None:
    client = Letta(base_url=server.url, max_retries=0)
    agent = agent_with_dice(client)
    double.script({"blocked": "PROHIBITED_CONTENT"})
    with pytest.raises(Exception, match="PROHIBITED_CONTENT"):
        client.agents.messages.create(agent_id=agent.id, input="Hi")
    double.script(failure(503, {"error": {"code": 503, "message": "overloaded"}}), text("Back."))
    assert client.agents.messages.create(agent_id=agent.id, input="Hi").messages[-1].content == "Back."
    double.script({"finish": "MALFORMED_FUNCTION_CALL", "finish_message": "f(a=)"}, text("Sorry."))
    assert client.agents.messages.create(agent_id=agent.id, input="Hi").messages[-1].content == "Sorry."
    told = double.requests[-1]["contents"][-1]["parts"][0]["text"]
    assert "f(a=)" in told and "MALFORMED_FUNCTION_CALL" in told


def test_settings_of_googles_own(server: ServerProcess, double: GeminiDouble) -> None:
    client = Letta(base_url=server.url, max_retries=0)
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"properties": {"a": {"type": "string"}}}}}
    settings = {"provider_type": "google_ai", "response_schema": schema, "max_output_tokens": 50}
    agent = agent_with_dice(client, model_settings=settings)
    assert agent.model_settings["response_schema"]["json_schema"]["name"] == "n"
    double.script(text('{"a": "x"}'), text('{"a": "y"}'))
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    sent = double.requests[-1]  # beside tools Gemini takes no schema, so it is told in words
    assert sent["generationConfig"] == {"maxOutputTokens": 50}
    assert '"a": {"type": "string"}' in sent["systemInstruction"]["parts"][0]["text"]
    client.agents.tools.detach(agent_id=agent.id, tool_id=agent.tools[0].id)
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert double.requests[-1]["generationConfig"] == {
        "maxOutputTokens": 50,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
    }
