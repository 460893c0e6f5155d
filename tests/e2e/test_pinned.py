"""Pinned messages with the real SDK: set with an update, kept by every compaction, told among what fills the window, and carried
in agent files."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_compaction import WINDOW, refused, talk, window_of

CODE = "The code of the safe is 4711."


@pytest.fixture
def agent(client: Letta, new_agent: Callable[..., Any]) -> Any:
    made = new_agent(context_window_limit=WINDOW, system="Be kind.")
    client.agents.messages.create(made.id, input=CODE)
    talk(client, made.id, 3)
    return made


def message_of(client: Letta, agent_id: str, content: str) -> str:
    listed = client.agents.messages.list(agent_id, order="asc").items
    return next(message.id for message in listed if getattr(message, "content", None) == content)


def pin(client: Letta, agent_id: str, *ids: str) -> None:
    client.agents.update(agent_id, compaction_settings={"mode": "all", "pinned_message_ids": list(ids)})  # type: ignore[typeddict-unknown-key]


def test_a_pinned_message_is_sent_to_the_model_after_any_number_of_compactions(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, agent: Any
) -> None:
    code = message_of(client, agent.id, CODE)
    pin(client, agent.id, code)
    for turn in range(3):
        engine.script(text(f"notes {turn}"))
        client.agents.messages.compact(agent.id)
        talk(client, agent.id, 2)
        sent = [message["content"] for message in engine.requests[-1]["messages"]]
        assert sent.count(CODE) == 1 and f"notes {turn}" in sent[1]
    found = window_of(server, agent.id)
    assert found["pinned"]["message_ids"] == [code]
    assert 0 < found["pinned"]["tokens"] < found["num_tokens_messages"]


def test_pins_come_back_as_they_were_set_and_wrong_ones_are_named(
    client: Letta, agent: Any, new_agent: Callable[..., Any]
) -> None:
    code = message_of(client, agent.id, CODE)
    pin(client, agent.id, code, code)
    settings = client.agents.retrieve(agent.id).compaction_settings
    assert settings is not None and settings.model_dump()["pinned_message_ids"] == [code]
    other = new_agent()
    assert "is not a message of agent" in refused(422, lambda: pin(client, other.id, code))
    assert "compaction_settings.pinned_message_ids[0]" in refused(422, lambda: pin(client, agent.id, "block-1"))
    with_pin = {"pinned_message_ids": [code]}
    assert "no messages to pin yet" in refused(422, lambda: new_agent(compaction_settings=with_pin))
    client.agents.messages.compact(agent.id)
    context = client.agents.retrieve(agent.id).message_ids or []
    assert "is a summary" in refused(422, lambda: pin(client, agent.id, context[1]))


def test_a_pin_of_one_compaction_alone(client: Letta, engine: OpenAIDouble, agent: Any) -> None:
    code = message_of(client, agent.id, CODE)
    engine.script(text("notes"))
    client.agents.messages.compact(
        agent.id,
        compaction_settings={"mode": "all", "pinned_message_ids": [code]},  # type: ignore[typeddict-unknown-key]
    )
    assert code in (client.agents.retrieve(agent.id).message_ids or [])


def test_a_copy_from_an_agent_file_keeps_its_pins(client: Letta, engine: OpenAIDouble, agent: Any) -> None:
    pin(client, agent.id, message_of(client, agent.id, CODE))
    exported = client.agents.export_file(agent.id)
    copied = json.loads(exported)["agents"][0]["compaction_settings"]["pinned_message_ids"]
    assert [each.startswith("message-") and len(each) < 14 for each in copied] == [True]
    [copy_id] = client.agents.import_file(file=exported.encode()).agent_ids
    engine.script(text("notes"))
    client.agents.messages.compact(copy_id)
    client.agents.messages.create(copy_id, input="and?")
    assert CODE in [message["content"] for message in engine.requests[-1]["messages"]]
    client.agents.delete(copy_id)


def test_a_conversation_keeps_what_the_agent_has_pinned(client: Letta, engine: OpenAIDouble, agent: Any) -> None:
    conversation = client.conversations.create(agent_id=agent.id)
    for content in ("Call me Ada.", "one", "two"):
        for _ in client.conversations.messages.create(conversation.id, input=content):
            pass
    listed = client.conversations.messages.list(conversation.id).items
    ada = next(message.id for message in listed if getattr(message, "content", None) == "Call me Ada.")
    pin(client, agent.id, ada)
    engine.script(text("notes"))
    client.conversations.messages.compact(conversation.id)
    assert ada in client.conversations.retrieve(conversation.id).in_context_message_ids
