"""Conversations with the real SDK: every method of `client.conversations` and `client.conversations.messages`."""

import json
from collections.abc import Callable
from typing import Any

from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import post


def say(client: Letta, conversation_id: str, said: str, **more: Any) -> list[Any]:
    """Send with the SDK, which streams; the events."""
    return list(client.conversations.messages.create(conversation_id, input=said, **more))


def kinds(events: Any) -> list[str]:
    return [event.message_type for event in events]


def texts(messages: Any) -> list[str]:
    return [m.content for m in messages if m.message_type in ("user_message", "assistant_message")]


def history(client: Letta, conversation_id: str) -> list[str]:
    return texts(client.conversations.messages.list(conversation_id, order="asc").items)


def test_a_conversation_is_made_and_found(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(memory_blocks=[{"label": "human", "value": "Ada"}])
    made = client.conversations.create(
        agent_id=agent.id, summary="about tea", description="a talk", context_window_limit=4000
    )
    found = client.conversations.retrieve(made.id)
    assert made.id.startswith("conv-") and found.agent_id == agent.id
    assert (found.summary, found.description, found.context_window_limit) == ("about tea", "a talk", 4000)
    assert found.archived is False and found.archived_at is None and found.last_message_at is None
    assert found.created_at is not None and found.in_context_message_ids is not None
    assert len(found.in_context_message_ids) == 1
    system = client.messages.retrieve(found.in_context_message_ids[0])[0]
    assert system.message_type == "system_message"
    assert made.id in system.content and "Ada" in system.content
    assert found.in_context_message_ids[0] not in client.agents.retrieve(agent.id).message_ids


def test_a_message_is_streamed_unless_told_otherwise(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    conversation = client.conversations.create(agent_id=new_agent().id)
    engine.script(text("Hello there."), text("Whole."))
    events = say(client, conversation.id, "Hi")
    assert kinds(events) == ["ping", "assistant_message", "stop_reason", "usage_statistics"]
    status, raw = post(
        f"{server.url}/v1/conversations/{conversation.id}/messages", {"input": "Again", "streaming": False}
    )
    assert status == 200
    answer = json.loads(raw)
    assert [message["content"] for message in answer["messages"]] == ["Whole."]
    assert history(client, conversation.id) == ["Hi", "Hello there.", "Again", "Whole."]
    runs = client.runs.list(conversation_id=conversation.id).items
    assert [(run.status, run.conversation_id) for run in runs] == [("completed", conversation.id)] * 2
    assert client.conversations.retrieve(conversation.id).last_message_at is not None
