"""Agents out to files and back with the real SDK and the command line; an imported agent goes on where the file ends."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from letta_client import BadRequestError, Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess

FILES = Path(__file__).parents[1] / "doubles" / "agent_files"
COUNT = '''
def count_boats(quay: str) -> str:
    """Count boats.

    Args:
        quay (str): which quay
    """
    return f"3 boats at {quay}"
'''


@pytest.fixture
def forget(client: Letta) -> Iterator[Callable[[str], str]]:
    """Deletes the agents it was told of."""
    made: list[str] = []

    def remember(agent_id: str) -> str:
        made.append(agent_id)
        return agent_id

    yield remember
    for agent_id in made:
        client.agents.delete(agent_id)


def test_an_exported_agent_goes_on_where_it_was(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], forget: Callable[[str], str]
) -> None:
    tool = client.tools.upsert(source_code=COUNT)
    agent = new_agent(tool_ids=[tool.id], memory_blocks=[{"label": "books", "value": "Boats: ?"}], secrets={"KEY": "v"})
    engine.script(call("count_boats", {"quay": "east"}), text("Three boats."))
    client.agents.messages.create(agent_id=agent.id, input="How many?")
    exported = client.agents.export_file(agent.id)
    file = json.loads(exported)
    assert [message["role"] for message in file["agents"][0]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    made = client.agents.import_file(file=exported.encode(), name="the copy", secrets='{"KEY": "w"}')
    (copy,) = made.agent_ids
    forget(copy)
    assert client.agents.retrieve(copy).name == "the copy"
    engine.script(text("Still three."))
    answer = client.agents.messages.create(agent_id=copy, input="And now?")
    assert answer.messages[0].content == "Still three."
    sent = engine.requests[-1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert sent[3]["content"] == "3 boats at east" and sent[2]["tool_calls"][0]["id"] == sent[3]["tool_call_id"]
    assert "Boats: ?" in sent[0]["content"] and copy in sent[0]["content"] and agent.id not in sent[0]["content"]
    assert client.agents.messages.list(agent.id).items[-1].content == "Three boats."


def test_a_question_that_was_open_is_closed_in_the_copy(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], forget: Callable[[str], str]
) -> None:
    tool = client.tools.upsert(source_code=COUNT)
    agent = new_agent(tool_ids=[tool.id], tool_rules=[{"type": "requires_approval", "tool_name": "count_boats"}])
    engine.script(call("count_boats", {"quay": "east"}, id="call_5"))
    asked = client.agents.messages.create(agent_id=agent.id, input="How many?")
    assert asked.stop_reason.stop_reason == "requires_approval"
    made: Any = client.agents.import_file(file=client.agents.export_file(agent.id).encode())
    (copy,) = made.agent_ids
    forget(copy)
    assert any("without an answer" in note for note in made.notes)
    answer = client.agents.messages.create(agent_id=copy, input="Well?")
    assert answer.messages[-1].content == "ok"
    sent = engine.requests[-1]["messages"][1:]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "user"]
    assert sent[2]["tool_call_id"] == "call_5" and "not in the agent file" in sent[2]["content"]


@pytest.mark.parametrize(("name", "said"), [("current.af", "When is high water?"), ("legacy.af", "login")])
def test_a_file_of_the_archived_server_is_imported_and_the_agent_answers(
    client: Letta, engine: OpenAIDouble, forget: Callable[[str], str], name: str, said: str
) -> None:
    with (FILES / name).open("rb") as file:
        made = client.agents.import_file(file=file, model="openai/gpt-test", append_copy_suffix=False)
    (agent_id,) = made.agent_ids
    forget(agent_id)
    speaks = name == "legacy.af"  # agents of the older types speak by calling a tool
    engine.script(call("send_message", {"message": "Here I am."}) if speaks else text("Here I am."))
    answer = client.agents.messages.create(agent_id=agent_id, input="Hello?")
    assert [m.content for m in answer.messages if m.message_type == "assistant_message"] == ["Here I am."]
    sent = engine.requests[-1]["messages"]
    assert said in json.dumps(sent[1]["content"])
    assert sent[-1] == {"role": "user", "content": "Hello?"}


def test_the_legacy_format_is_one_agent_with_all_inside(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(memory_blocks=[{"label": "human", "value": "Ada"}], tags=["x"])
    file = json.loads(client.agents.export_file(agent.id, use_legacy_format=True))
    assert (file["name"], file["core_memory"][0]["value"], file["tags"]) == (agent.name, "Ada", [{"tag": "x"}])
    assert file["in_context_message_indices"] == [0] and "agents" not in file


def test_one_conversation_is_exported_with_its_messages_or_without(
    client: Letta, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert json.loads(client.agents.export_file(agent.id, scrub_messages=True))["agents"][0]["messages"] == []
    own = json.loads(client.agents.export_file(agent.id, conversation_id="default"))["agents"][0]
    assert len(own["messages"]) == len(own["in_context_message_ids"]) == 3
    conversation = client.conversations.create(agent_id=agent.id)
    list(client.conversations.messages.create(conversation.id, input="Apart"))
    other = json.loads(client.agents.export_file(agent.id, conversation_id=conversation.id))["agents"][0]
    assert [m["content"][0]["text"] for m in other["messages"][1:]] == ["Apart", "ok"]
    fork = client.conversations.fork(conversation.id)
    forked = json.loads(client.agents.export_file(agent.id, conversation_id=fork.id))["agents"][0]
    assert [m["content"][0]["text"] for m in forked["messages"][1:]] == ["Apart", "ok"]
    assert len(forked["in_context_message_ids"]) == 3


def test_a_file_that_is_none_is_a_bad_request(client: Letta) -> None:
    with pytest.raises(BadRequestError, match="not valid JSON"):
        client.agents.import_file(file=b"{")


def test_the_command_line_takes_an_agent_out_and_brings_it_back(
    server: ServerProcess, client: Letta, new_agent: Callable[..., Any], forget: Callable[[str], str], tmp_path: Path
) -> None:
    agent = new_agent(
        name="harbour master", memory_blocks=[{"label": "human", "value": "Adé"}], secrets={"A": "1", "B": "2"}
    )
    path = tmp_path / "master.af"

    def perdure(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "perdure", "agents", *words, "--base-url", server.url]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert perdure("export", "harbour master", "-o", str(path)).returncode == 0
    assert json.loads(path.read_text())["agents"][0]["name"] == "harbour master"
    assert json.loads(perdure("export", agent.id, "--legacy", "--scrub-messages").stdout)["messages"] == []
    done = perdure("import", str(path), "--name", "second", "--secret", "A=sesame")
    assert done.returncode == 0, done.stderr
    copy = forget(done.stdout.strip())
    assert client.agents.retrieve(copy).name == "second"
    assert client.agents.blocks.retrieve("human", agent_id=copy).value == "Adé"
    assert "no value yet: B" in done.stderr
    assert perdure("import", str(tmp_path / "none.af")).returncode == 1
