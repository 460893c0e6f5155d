"""Bad input and failing engines: the right status, a message that says what to do, and an agent that answers the next one."""

from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, failure, text
from tests.e2e.conftest import ServerProcess, free_port
from tests.e2e.frames import frames, post

UNKNOWN_AGENT = "agent-00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("turn", "status", "error_type"),
    [
        (failure(401, {"error": {"message": "Incorrect API key provided"}}), 401, "llm_authentication"),
        (failure(429, {"error": {"message": "Rate limit"}}, {"retry-after": "0"}), 429, "llm_rate_limit"),
        (failure(402, {"error": {"message": "Pay first"}}), 402, "llm_insufficient_credits"),
        (failure(400, {"error": {"message": "bad field"}}), 400, "llm_bad_request"),
        (failure(500, "<html><body>Bad gateway</body></html>"), 500, "llm_error"),
    ],
)
def test_an_engine_that_refuses(
    server: ServerProcess,
    client: Letta,
    engine: OpenAIDouble,
    new_agent: Callable[..., Any],
    turn: dict[str, Any],
    status: int,
    error_type: str,
) -> None:
    agent = new_agent()
    engine.default = turn
    try:
        with pytest.raises(APIStatusError) as failed:
            client.agents.messages.create(agent_id=agent.id, input="Hi")
        assert failed.value.status_code == status
        assert failed.value.body["error"]["type"] == error_type  # type: ignore[index]
        body = {"input": "Hi", "streaming": True}
        code, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", body)
    finally:
        engine.default = text("ok")
    assert code == 200
    seen = frames(raw)
    assert seen[-3]["message_type"] == "stop_reason"
    assert seen[-2][0] == "error"
    assert seen[-2][1]["error_type"] == error_type
    assert seen[-1] == "[DONE]"
    assert client.runs.list(agent_id=agent.id).items[0].status == "failed"
    answer = client.agents.messages.create(agent_id=agent.id, input="And now?")
    assert answer.messages[0].content == "ok"
    said = [m.content for m in client.agents.messages.list(agent_id=agent.id).items if m.message_type == "user_message"]
    assert said == ["Hi", "Hi", "And now?"]


def test_an_engine_that_is_down(own_server: Callable[..., ServerProcess]) -> None:
    port = free_port()
    server = own_server(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1")
    client = Letta(base_url=server.url, max_retries=0)
    with pytest.raises(APIStatusError) as failed:
        agent = client.agents.create(model="openai/gpt-4o", include_base_tools=False)
        client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert failed.value.status_code in (404, 500, 502, 503)
    assert str(port) in str(failed.value.body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"input": "Hi"', "JSON"),
        ({"input": 7}, "input"),
        ({"messages": [], "max_steps": 1}, "messages"),
        ({"messages": [{"role": "user", "content": "Hi"}], "input": "Hi"}, "messages"),
        ({}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        ({"input": "Hi", "max_steps": "many"}, "max_steps"),
        ({"input": "Hi", "max_steps": 0}, "max_steps"),
        ({"input": "Hi", "top_logprobs": 50}, "top_logprobs"),
        ({"input": "Hi", "stream_tokens": True}, "stream_tokens"),
        ({"input": "Hi", "background": True}, "background"),
        ({"input": "Hi", "include_return_message_types": ["nonsense"]}, "include_return_message_types"),
    ],
)
def test_a_wrong_body_is_a_422_that_names_the_field(
    server: ServerProcess, new_agent: Callable[..., Any], body: Any, field: str
) -> None:
    agent = new_agent()
    status, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", body)
    assert status == 422
    assert field in raw.decode()


def test_unknown_fields_are_ignored(server: ServerProcess, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    status, _ = post(f"{server.url}/v1/agents/{agent.id}/messages", {"input": "Hi", "a_new_field": {"x": 1}})
    assert status == 200


def test_unknown_things_are_404(server: ServerProcess, client: Letta, new_agent: Callable[..., Any]) -> None:
    status, raw = post(f"{server.url}/v1/agents/{UNKNOWN_AGENT}/messages", {"input": "Hi"})
    assert (status, raw) == (404, b'{"detail":"Agent not found"}')
    agent = new_agent()
    status, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", {"input": "Hi", "override_model": "no/such"})
    assert status == 404
    assert b"no" in raw
    with pytest.raises(APIStatusError) as missing:
        client.agents.create(model="no/such")
    assert missing.value.status_code == 404
    status, raw = post(f"{server.url}/v1/agents/not-an-id/messages", {"input": "Hi"})
    assert status == 422
    assert b"agent_id" in raw


def test_an_empty_message_is_a_400(server: ServerProcess, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    status, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", {"input": ""})
    assert status == 400
    assert b"empty" in raw
