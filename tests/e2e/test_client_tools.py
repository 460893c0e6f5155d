"""Tools that the client runs, and what else one request may change for itself, with the real SDK."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, call, calls, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import frames, post

LOOK = '''
def look(at: str) -> str:
    """Look at something.

    Args:
        at (str): what
    """
    return f"saw {at}"
'''
READ = {
    "name": "read_file",
    "description": "Read a file at the client's.",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def looker(client: Letta, new_agent: Callable[..., Any]) -> Any:
    return new_agent(tool_ids=[client.tools.upsert(source_code=LOOK).id])


def kinds(messages: Any) -> list[str]:
    return [message.message_type for message in messages]


def returned(call_id: str, value: Any, status: str = "success") -> dict[str, Any]:
    return {"type": "tool", "tool_call_id": call_id, "status": status, "tool_return": value}


def send(client: Letta, agent: Any, **more: Any) -> Any:
    return client.agents.messages.create(agent_id=agent.id, **{"client_tools": [READ], **more})


def test_a_client_tool_is_called_and_its_return_goes_back(client: Letta, engine: OpenAIDouble, looker: Any) -> None:
    engine.script(call("read_file", {"path": "a"}, content="Reading."), text("It says 42."))
    asked = send(client, looker, input="What does a say?")
    assert kinds(asked.messages) == ["assistant_message", "approval_request_message"]
    assert asked.stop_reason.stop_reason == "requires_approval"
    shown = {tool["function"]["name"]: tool["function"] for tool in engine.requests[-1]["tools"]}
    assert shown["read_file"] == READ
    assert set(shown) == {"look", "read_file"}
    answer = send(client, looker, messages=[{"type": "approval", "approvals": [returned("call_1", "42")]}])
    assert kinds(answer.messages) == ["tool_return_message", "assistant_message"]
    assert answer.messages[0].tool_return == "42"
    assert answer.messages[0].step_id == asked.messages[1].step_id
    sent = engine.requests[-1]["messages"]
    assert sent[-1] == {"role": "tool", "tool_call_id": "call_1", "content": "42"}


def test_a_tool_return_message_answers_too(client: Letta, engine: OpenAIDouble, looker: Any) -> None:
    engine.script(call("read_file", {"path": "a"}))
    send(client, looker, input="Read a")
    error = returned("call_1", "no such file", status="error") | {"stderr": ["ENOENT"]}
    answer = send(client, looker, messages=[{"type": "tool_return", "tool_returns": [error]}])
    assert answer.messages[0].status == "error"
    assert answer.messages[0].stderr == ["ENOENT"]
    assert engine.requests[-1]["messages"][-1]["content"] == "no such file"


def test_client_and_server_tools_of_one_step(client: Letta, engine: OpenAIDouble, looker: Any) -> None:
    made = [
        ("call_a", "read_file", {"path": "a"}),
        ("call_b", "look", {"at": "sky"}),
        ("call_c", "read_file", {"path": "c"}),
    ]
    engine.script(calls(made))
    asked = send(client, looker, input="Go")
    assert kinds(asked.messages) == ["tool_call_message", "approval_request_message"]
    answers = [returned("call_c", "C"), returned("call_a", "A")]
    answer = send(client, looker, messages=[{"type": "tool_return", "tool_returns": answers}])
    returns = answer.messages[0].tool_returns
    assert [(each.tool_call_id, each.tool_return) for each in returns] == [
        ("call_a", "A"),
        ("call_b", "saw sky"),
        ("call_c", "C"),
    ]


def test_a_client_tool_stands_in_for_the_servers_of_its_name(client: Letta, engine: OpenAIDouble, looker: Any) -> None:
    mine = {"name": "look", "description": "My own look.", "parameters": {"type": "object", "properties": {}}}
    engine.script(call("look", {}))
    asked = send(client, looker, input="Look", client_tools=[mine])
    assert asked.stop_reason.stop_reason == "requires_approval"
    assert [tool["function"]["description"] for tool in engine.requests[-1]["tools"]] == ["My own look."]
    answer = send(client, looker, messages=[{"type": "tool_return", "tool_returns": [returned("call_1", "mine")]}])
    assert answer.messages[0].tool_return == "mine"
    engine.script(call("look", {"at": "sea"}), text("Done."))
    again = client.agents.messages.create(agent_id=looker.id, input="Look")
    assert again.messages[1].tool_return == "saw sea"


def test_a_client_tool_can_be_denied_but_not_approved_without_a_return(
    client: Letta, engine: OpenAIDouble, looker: Any
) -> None:
    engine.script(call("read_file", {"path": "a"}))
    send(client, looker, input="Read a")
    approval = {"type": "approval", "tool_call_id": "call_1", "approve": True}
    with pytest.raises(APIStatusError) as wrong:
        send(client, looker, messages=[{"type": "approval", "approvals": [approval]}])
    assert wrong.value.status_code == 400
    assert "tool_return" in wrong.value.body["detail"]
    denial = approval | {"approve": False, "reason": "secret"}
    answer = send(client, looker, messages=[{"type": "approval", "approvals": [denial]}])
    assert "secret" in answer.messages[0].tool_return


def test_a_client_may_return_an_image(client: Letta, engine: OpenAIDouble, looker: Any) -> None:
    engine.script(call("read_file", {"path": "a.png"}))
    send(client, looker, input="Look at a.png")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    parts = [{"type": "text", "text": "Here it is:"}, image]
    answer = send(client, looker, messages=[{"type": "tool_return", "tool_returns": [returned("call_1", parts)]}])
    shown = answer.messages[0].tool_returns[0].tool_return
    assert [part.type for part in shown] == ["text", "image"]
    assert base64.b64decode(shown[1].source.data) == base64.b64decode(PIXEL)
    assert PIXEL in str(engine.requests[-1]["messages"][-2:])


def test_a_long_client_return_is_cut(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(context_window_limit=4096)
    engine.script(call("read_file", {"path": "a"}))
    send(client, agent, input="Read a")
    long = returned("call_1", "x" * 9_000)
    answer = send(client, agent, messages=[{"type": "tool_return", "tool_returns": [long]}])
    assert "truncated 4000 chars" in answer.messages[0].tool_return
    assert answer.messages[0].tool_return.startswith("x" * 5_000 + ".")


def test_a_token_stream_asks_for_client_tools_in_deltas(
    server: ServerProcess, engine: OpenAIDouble, looker: Any
) -> None:
    engine.script(call("read_file", {"path": "a"}))
    body = {"input": "Go", "streaming": True, "stream_tokens": True, "client_tools": [READ]}
    _, raw = post(f"{server.url}/v1/agents/{looker.id}/messages", body)
    seen = [frame["message_type"] for frame in frames(raw) if not isinstance(frame, str)]
    assert list(dict.fromkeys(seen)) == ["ping", "approval_request_message", "stop_reason", "usage_statistics"]


def test_wrong_client_tools_are_named(client: Letta, looker: Any) -> None:
    for tools, where in (
        ([READ, READ], "client_tools[1].name"),
        ([{"name": ""}], "client_tools[0].name"),
        ([{"name": "x", "parameters": {"type": "string"}}], "client_tools[0].parameters"),
    ):
        with pytest.raises(APIStatusError) as wrong:
            send(client, looker, input="Go", client_tools=tools)
        assert wrong.value.status_code == 422
        assert where in wrong.value.body["detail"]


def test_a_request_may_have_its_own_system_prompt_model_and_skills(
    client: Letta, engine: OpenAIDouble, looker: Any
) -> None:
    skill = {"name": "pdf", "description": "Reads <PDF> files.", "location": "skills/pdf/SKILL.md"}
    send(client, looker, input="Hi", client_skills=[skill])
    first = engine.requests[-1]["messages"][0]["content"]
    assert "<available_skills>" in first
    assert "skills/pdf/SKILL.md" in first
    assert "Reads &lt;PDF&gt; files." in first
    send(client, looker, input="Hi", client_skills=[skill], override_system="Be a cat.")
    assert engine.requests[-1]["messages"][0]["content"] == "Be a cat."
    send(client, looker, input="Hi")
    assert engine.requests[-1]["messages"][0]["content"] == first.split("\n\n<available_skills>")[0]
    with pytest.raises(APIStatusError) as unknown:
        send(client, looker, input="Hi", override_model="openai/none")
    assert unknown.value.status_code == 404
    send(client, looker, input="Hi", override_model="openai/gpt-test")
    assert client.agents.retrieve(looker.id).llm_config.handle == "openai/gpt-test"


def test_only_the_message_types_asked_for_come_back(
    server: ServerProcess, client: Letta, engine: OpenAIDouble, looker: Any
) -> None:
    def script() -> None:
        engine.script(call("look", {"at": "sky"}, content="Hm."), text("Blue."))

    wanted = ["tool_return_message"]
    script()
    answer = send(client, looker, input="Go", include_return_message_types=wanted)
    assert kinds(answer.messages) == wanted
    assert kinds(client.runs.messages.list(answer.messages[0].run_id)) == wanted
    script()
    body = {"input": "Go", "streaming": True, "stream_tokens": True, "include_return_message_types": wanted}
    _, raw = post(f"{server.url}/v1/agents/{looker.id}/messages", body)
    seen = [frame["message_type"] for frame in frames(raw) if not isinstance(frame, str)]
    assert seen == ["ping", *wanted, "stop_reason", "usage_statistics"]
    script()
    assert len(send(client, looker, input="Go", include_return_message_types=[]).messages) == 4


def test_max_steps_ends_a_run_that_wants_to_go_on(client: Letta, engine: OpenAIDouble, looker: Any) -> None:
    engine.script(*[call("look", {"at": "sky"}, id=f"call_{n}") for n in range(3)])
    answer = send(client, looker, input="Go", max_steps=2)
    assert answer.stop_reason.stop_reason == "max_steps"
    assert answer.usage.step_count == 2
    assert client.runs.retrieve(answer.messages[0].run_id).status == "completed"


def test_a_client_tool_takes_the_place_of_one_that_needs_approval(
    client: Letta, engine: OpenAIDouble, looker: Any
) -> None:
    client.agents.tools.update_approval(agent_id=looker.id, tool_name="look", body_requires_approval=True)
    mine = {"name": "look", "description": "Look here.", "parameters": {"type": "object", "properties": {}}}
    engine.script(calls([("call_1", "look", {}), ("call_2", "read_file", {"path": "a"})]))
    asked = send(client, looker, input="Look and read", client_tools=[mine, READ])
    assert [each.tool_call_id for each in asked.messages[-1].tool_calls] == ["call_1", "call_2"]
    engine.script(text("I see"))
    answers = [
        {"type": "approval", "tool_call_id": "call_1", "approve": False, "reason": "dark here"},
        returned("call_2", "no such file", "error"),
    ]
    answer = send(
        client, looker, messages=[{"type": "approval", "approvals": answers}], client_tools=[mine, READ], streaming=True
    )
    heard = [event for event in answer if event.message_type not in ("ping",)]
    assert [each.status for each in heard[0].tool_returns] == ["error", "error"]
    assert "dark here" in engine.requests[-1]["messages"][-2]["content"]
    assert engine.requests[-1]["messages"][-1]["content"] == "no such file"
    engine.script(call("look", {"at": "b"}, id="call_3"))  # without it, the server's own is asked about again
    waits = client.agents.messages.create(agent_id=looker.id, input="Look again")
    assert kinds(waits.messages) == ["approval_request_message"]
    engine.script(text("saw it"))
    approval = {"type": "approval", "tool_call_id": "call_3", "approve": True}
    done = client.agents.messages.create(agent_id=looker.id, messages=[{"type": "approval", "approvals": [approval]}])
    assert done.messages[0].tool_return == "saw b"
