"""Agents on the Responses API, through a real server: reasoning goes back with what it led to, over turns and restarts.

The double refuses a request as the API does where reasoning is missing before the call it led to.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import calls, text
from tests.doubles.openai_responses import ResponsesDouble
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
def shared_double() -> Iterator[ResponsesDouble]:
    made = ResponsesDouble()
    yield made
    made.close()


@pytest.fixture
def double(shared_double: ResponsesDouble) -> Iterator[ResponsesDouble]:
    yield shared_double
    shared_double.reset()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_double: ResponsesDouble) -> Iterator[ServerProcess]:
    env = {"OPENAI_BASE_URL": shared_double.base_url, "OPENAI_API_KEY": "sk-test", "OPENAI_WIRE_API": "responses"}
    process = ServerProcess(tmp_path_factory.mktemp("perdure"), env)
    yield process
    process.stop()


def agent_with_dice(client: Letta, **more: Any) -> Any:
    tool = client.tools.upsert(source_code=ROLL)
    return client.agents.create(model="openai/gpt-test", include_base_tools=False, tool_ids=[tool.id], **more)


def types(items: list[dict[str, Any]]) -> list[str]:
    return [item.get("role") or item["type"] for item in items]


def test_reasoning_and_tools_over_several_turns(server: ServerProcess, double: ResponsesDouble) -> None:
    client = Letta(base_url=server.url, max_retries=0)
    agent = agent_with_dice(client)
    double.script(
        {**calls([("call_1", "roll", {"sides": 6}), ("call_2", "roll", {"sides": 8})]), "reasoning": ["Dice.", "Two."]},
        {**calls([("call_3", "roll", {"sides": 4})], content="One more."), "reasoning": "", "phase": "commentary"},
        text("All rolled.", reasoning="Enough."),
    )
    answer = client.agents.messages.create(agent_id=agent.id, input="Roll")
    assert [message.message_type for message in answer.messages] == [
        *("reasoning_message", "tool_call_message", "tool_return_message"),
        *("hidden_reasoning_message", "assistant_message", "tool_call_message", "tool_return_message"),
        *("reasoning_message", "assistant_message"),
    ]
    assert answer.messages[0].reasoning == "Dice.\n\nTwo."
    assert answer.usage.total_tokens == 45 and answer.usage.reasoning_tokens == 6
    server.kill()
    server.start()
    double.script({**calls([("call_4", "roll", {"sides": 3})]), "reasoning": "Again."}, text("Bye."))
    kinds: list[str] = []
    with client.agents.messages.stream(agent_id=agent.id, input="Again", stream_tokens=True) as stream:
        kinds = [event.message_type for event in stream]
    assert "tool_return_message" in kinds and kinds[-2:] == ["stop_reason", "usage_statistics"]
    sent = double.requests[-1]
    assert types(sent["input"]) == [
        "user",
        *("reasoning", "function_call", "function_call", "function_call_output", "function_call_output"),
        *("reasoning", "assistant", "function_call", "function_call_output"),
        *("reasoning", "assistant", "user"),
        *("reasoning", "function_call", "function_call_output"),
    ]
    assert sent["input"][1]["summary"] == [
        {"type": "summary_text", "text": "Dice."},
        {"type": "summary_text", "text": "Two."},
    ]
    assert sent["input"][7]["phase"] == "commentary"
    assert sent["store"] is False and sent["include"] == ["reasoning.encrypted_content"]


def test_streamed_parts_have_the_ids_they_are_listed_by(server: ServerProcess, double: ResponsesDouble) -> None:
    client = Letta(base_url=server.url, max_retries=0)
    agent = agent_with_dice(client)
    double.script({"reasoning": "", "content": "Hello there."})
    with client.agents.messages.stream(agent_id=agent.id, input="Hi", stream_tokens=True) as stream:
        events = [event for event in stream if getattr(event, "otid", None)]
    streamed = list(dict.fromkeys((event.message_type, event.id, event.otid) for event in events))
    listed = [
        (message.message_type, message.id, message.otid)
        for message in client.agents.messages.list(agent_id=agent.id, order="asc").items
        if message.message_type in ("hidden_reasoning_message", "assistant_message")
    ]
    assert streamed == listed and len(listed) == 2


def test_an_agent_chooses_its_api(server: ServerProcess, double: ResponsesDouble) -> None:
    client = Letta(base_url=server.url, max_retries=0)
    agent = agent_with_dice(
        client,
        model_settings={
            "provider_type": "openai",
            "wire_api": "chat",
            "verbosity": "low",
            "reasoning": {"reasoning_effort": "low"},
        },
    )
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert "messages" in double.requests[-1]
    settings = {"provider_type": "openai", "verbosity": "low", "reasoning": {"reasoning_effort": "low"}}
    client.agents.update(agent.id, model_settings=settings)  # type: ignore[arg-type]
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    sent = double.requests[-1]
    assert sent["text"] == {"verbosity": "low"} and sent["reasoning"]["effort"] == "low"
    with pytest.raises(Exception, match="wire_api"):
        client.agents.update(agent.id, model_settings={"provider_type": "openai", "wire_api": "smoke"})  # type: ignore[arg-type]


def test_a_failed_and_a_cut_response_leave_a_usable_agent(server: ServerProcess, double: ResponsesDouble) -> None:
    client = Letta(base_url=server.url, max_retries=0)
    agent = agent_with_dice(client)
    double.script({"error": {"code": "invalid_prompt", "message": "That was no prompt."}})
    with pytest.raises(Exception, match="That was no prompt"):
        client.agents.messages.create(agent_id=agent.id, input="Hi")
    double.script({"content": "Once upon a", "reasoning": "Tale.", "finish": "length"})
    answer = client.agents.messages.create(agent_id=agent.id, input="Tell")
    assert answer.stop_reason.stop_reason == "max_tokens_exceeded"
    double.script(text("Fine."))
    assert client.agents.messages.create(agent_id=agent.id, input="Go on").stop_reason.stop_reason == "end_turn"
