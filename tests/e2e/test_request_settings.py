"""Model settings for one request: they win over the agent's and the conversation's, and are forgotten with it."""

from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import post

SETTINGS = {"provider_type": "openai", "temperature": 0.2, "max_output_tokens": 50, "seed": 7}


def sent(engine: OpenAIDouble) -> dict[str, Any]:
    return {key: engine.requests[-1].get(key) for key in ("temperature", "max_tokens", "seed", "stop")}


def test_a_request_may_be_called_otherwise(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(model_settings=SETTINGS)
    own = {"model_settings": {"temperature": 0.9, "seed": None, "stop": ["END"]}}
    client.agents.messages.create(agent_id=agent.id, input="Hi", extra_body=own)
    assert sent(engine) == {"temperature": 0.9, "max_tokens": 50, "seed": None, "stop": ["END"]}
    with client.agents.messages.stream(agent_id=agent.id, input="Hi", extra_body=own) as stream:
        assert [each.message_type for each in stream][-1] == "usage_statistics"
    assert sent(engine)["temperature"] == 0.9
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert sent(engine) == {"temperature": 0.2, "max_tokens": 50, "seed": 7, "stop": None}
    kept: Any = client.agents.retrieve(agent_id=agent.id).llm_config
    assert kept.temperature == 0.2


def test_it_wins_over_a_conversations_too(
    server: ServerProcess, client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(model_settings=SETTINGS)
    made = client.conversations.create(agent_id=agent.id, model_settings={**SETTINGS, "temperature": 0.5, "seed": 8})
    body = {"input": "Hi", "model_settings": {"temperature": 0.9}, "streaming": False}
    status, raw = post(f"{server.url}/v1/conversations/{made.id}/messages", body)
    assert status == 200, raw
    assert sent(engine) == {"temperature": 0.9, "max_tokens": 50, "seed": 8, "stop": None}


def test_a_wrong_setting_is_named_and_nothing_is_stored(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    with pytest.raises(APIStatusError) as refused:
        client.agents.messages.create(agent_id=agent.id, input="Hi", extra_body={"model_settings": {"top_p": 7}})
    assert refused.value.status_code == 422 and "model_settings.top_p" in str(refused.value.body)
    stored = client.agents.messages.list(agent_id=agent.id).items
    assert [message.message_type for message in stored] == ["system_message"]
