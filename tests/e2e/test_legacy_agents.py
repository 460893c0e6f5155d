"""Agents of the older types with the real SDK: they speak by calling `send_message`, and go on by asking for it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import Letta

from perdure.agents.boot import GREETING, THOUGHT
from tests.doubles.openai_chat import OpenAIDouble, call, calls, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import frames, post

LOOK = '''
def look(quay: str) -> str:
    """Look at a quay.

    Args:
        quay (str): which quay
    """
    return f"three boats at {quay}"
'''
FAIL = '''
def fail(quay: str) -> str:
    """Fail.

    Args:
        quay (str): which quay
    """
    raise ValueError(quay)
'''
SAYS = {"thinking": "They want \u00e9.", "message": 'Three "boats".\n'}
LOOKS = {"thinking": "I must look.", "quay": "north", "request_heartbeat": True}


@pytest.fixture(params=["memgpt_agent", "memgpt_v2_agent"])
def make(request: pytest.FixtureRequest, client: Letta, new_agent: Callable[..., Any]) -> Callable[..., Any]:
    def made(**more: Any) -> Any:
        tools = [client.tools.upsert(source_code=source).id for source in (LOOK, FAIL)]
        return new_agent(agent_type=request.param, tools=["send_message"], tool_ids=tools, **more)

    return made


def send(client: Letta, agent: Any, **more: Any) -> Any:
    return client.agents.messages.create(agent_id=agent.id, input="How many?", **more)


def seen(messages: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for message in messages:
        kind = message.message_type.removesuffix("_message")
        match kind:
            case "assistant" | "user":
                found.append((kind, message.content))
            case "reasoning":
                found.append((kind, message.reasoning))
            case "tool_call":
                found.append((kind, (message.tool_call.name, message.tool_call.arguments)))
            case "tool_return":
                found.append((kind, message.tool_return))
    return found


SHOWN = [
    ("reasoning", "I must look."),
    ("tool_call", ("look", '{"quay": "north", "request_heartbeat": true}')),
    ("tool_return", "three boats at north"),
    ("reasoning", "They want \u00e9."),
    ("assistant", 'Three "boats".\n'),
]


def test_it_thinks_acts_goes_on_by_heartbeat_and_speaks(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    agent = make()
    engine.script(call("look", LOOKS), call("send_message", SAYS))
    answer = send(client, agent)
    assert seen(answer.messages) == SHOWN
    assert (answer.stop_reason.stop_reason, answer.usage.step_count) == ("tool_rule", 2)
    listed = client.agents.messages.list(agent_id=agent.id, order="asc").items
    assert seen(listed)[-len(SHOWN) - 1 :] == [("user", "How many?"), *SHOWN]
    run = client.runs.list(agent_id=agent.id).items[0]
    assert seen(client.runs.messages.list(run.id, order="asc").items)[-5:] == SHOWN


def listed(client: Letta, agent: Any, **more: Any) -> list[tuple[str, Any]]:
    return seen(client.agents.messages.list(agent_id=agent.id, order="asc", **more).items)


def test_it_begins_by_speaking_once(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    agent = make()
    assert len(agent.message_ids) == 4  # the system prompt, its call, the return, the login
    begun = listed(client, agent)
    assert begun[:2] == [("reasoning", THOUGHT), ("assistant", GREETING)]
    (login,) = [json.loads(content) for kind, content in begun if kind == "user"]
    assert login.keys() == {"type", "last_login", "time"} and login["type"] == "login" and len(begun) == 3
    engine.script(call("send_message", SAYS))
    send(client, agent)
    sent = engine.requests[-1]["messages"]
    assert [each["role"] for each in sent] == ["system", "assistant", "tool", "user", "user"]
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"thinking": THOUGHT, "message": GREETING}


def test_a_history_of_its_own_takes_the_place_of_that(client: Letta, make: Any) -> None:
    assert listed(client, make(initial_message_sequence=[])) == []
    given = make(initial_message_sequence=[{"role": "user", "content": "Before"}])
    assert listed(client, given) == [("user", "Before")]


def test_its_history_can_be_emptied_or_begun_again(client: Letta, make: Any) -> None:
    agent = make()
    client.agents.messages.reset(agent_id=agent.id)
    assert listed(client, agent) == []
    client.agents.messages.reset(agent_id=agent.id, add_default_initial_messages=True)
    assert [kind for kind, _ in listed(client, agent)] == ["reasoning", "assistant", "user"]
    assert len(client.agents.retrieve(agent_id=agent.id).message_ids) == 4


def test_newer_agents_begin_with_nothing_said(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(tools=["send_message"])
    client.agents.messages.reset(agent_id=agent.id, add_default_initial_messages=True)
    assert listed(client, agent) == []


def test_the_model_must_call_one_tool_and_is_shown_the_added_arguments(
    client: Letta, engine: OpenAIDouble, make: Any
) -> None:
    engine.script(call("send_message", SAYS))
    send(client, make())
    request = engine.requests[-1]
    assert request["tool_choice"] == "required"
    assert request.get("parallel_tool_calls") is not True
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in request["tools"]}
    assert list(tools["look"]["properties"]) == ["thinking", "quay", "request_heartbeat"]
    assert tools["look"]["required"] == ["thinking", "quay", "request_heartbeat"]
    assert list(tools["send_message"]["properties"]) == ["thinking", "message"]  # it ends the turn


def test_heartbeats_are_for_the_model_and_its_own_arguments_stay_as_written(
    client: Letta, engine: OpenAIDouble, make: Any
) -> None:
    written = '{ "quay":"north",  "request_heartbeat": true, "thinking": "Hm." }'
    engine.script(call("look", written), call("send_message", SAYS))
    answer = send(client, make())
    assert seen(answer.messages)[0] == ("tool_call", ("look", '{ "quay":"north",  "request_heartbeat": true }'))
    last = engine.requests[-1]["messages"]
    assert [m["tool_calls"][0]["function"]["arguments"] for m in last if m.get("tool_calls")][-1:] == [written]
    beat = json.loads(last[-1]["content"])
    assert last[-1]["role"] == "user"
    assert beat.keys() == {"type", "reason", "time"} and beat["type"] == "heartbeat"


@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_speech_streams_while_its_arguments_arrive_and_all_ways_of_asking_show_the_same(
    client: Letta, engine: OpenAIDouble, make: Any, pieces: int
) -> None:
    agent = make()
    turns = [{**call("look", LOOKS), "pieces": pieces}, {**call("send_message", SAYS), "pieces": pieces}]
    engine.script(*turns)
    tokens = client.agents.messages.create(agent_id=agent.id, input="How many?", streaming=True, stream_tokens=True)
    engine.script(*turns)
    steps = client.agents.messages.create(agent_id=agent.id, input="How many?", streaming=True)
    assert seen(steps) == SHOWN
    parts: dict[tuple[str, str], list[Any]] = {}
    for message in tokens:
        if message.message_type in ("stop_reason", "usage_statistics", "ping"):
            continue
        parts.setdefault((message.id, message.otid), []).append(message)
    assert [whole(each) for each in parts.values()] == SHOWN
    listed = client.agents.messages.list(agent_id=agent.id, order="asc").items
    assert set(parts) <= {(message.id, message.otid) for message in listed}


def whole(pieces: list[Any]) -> tuple[str, Any]:
    [kind] = {piece.message_type.removesuffix("_message") for piece in pieces}
    if kind == "tool_call":
        name = "".join(piece.tool_call.name or "" for piece in pieces)
        return kind, (name, "".join(piece.tool_call.arguments or "" for piece in pieces))
    field = {"assistant": "content", "reasoning": "reasoning", "tool_return": "tool_return"}[kind]
    return kind, "".join(getattr(piece, field) for piece in pieces)


def test_without_use_assistant_message_speech_is_a_call(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    agent = make()
    engine.script(call("send_message", SAYS))
    answer = send(client, agent, use_assistant_message=False)
    spoken = json.dumps({"message": SAYS["message"]})
    as_call = [
        ("reasoning", SAYS["thinking"]),
        ("tool_call", ("send_message", spoken)),
        ("tool_return", "Message sent."),
    ]
    assert seen(answer.messages) == as_call
    plain = client.agents.messages.list(agent_id=agent.id, order="asc", use_assistant_message=False).items
    assert seen(plain)[-3:] == as_call
    assert seen(client.agents.messages.list(agent_id=agent.id, order="asc").items)[-2:] == SHOWN[-2:]


def test_any_tool_can_be_the_one_it_speaks_with(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    engine.script(call("look", {"quay": "north", "request_heartbeat": False}))
    answer = send(client, make(), assistant_message_tool_name="look", assistant_message_tool_kwarg="quay")
    assert seen(answer.messages) == [("assistant", "north")]
    assert answer.stop_reason.stop_reason == "end_turn"


def test_without_a_heartbeat_the_turn_ends_and_a_failure_goes_on(
    client: Letta, engine: OpenAIDouble, make: Any
) -> None:
    agent = make()
    engine.script(call("look", {"quay": "north", "request_heartbeat": False}))
    answer = send(client, agent)
    assert (answer.stop_reason.stop_reason, answer.usage.step_count) == ("end_turn", 1)
    engine.script(call("fail", {"quay": "north", "request_heartbeat": False}), call("send_message", SAYS))
    answer = send(client, agent)
    assert (answer.stop_reason.stop_reason, answer.usage.step_count) == ("tool_rule", 2)


def test_a_rule_goes_on_without_a_heartbeat(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    agent = make(
        tool_rules=[
            {"type": "continue_loop", "tool_name": "look"},
            {"type": "exit_loop", "tool_name": "send_message"},
        ]
    )
    engine.script(call("look", {"quay": "north"}), call("send_message", SAYS))
    answer = send(client, agent)
    assert (answer.stop_reason.stop_reason, answer.usage.step_count) == ("tool_rule", 2)


def test_words_without_a_call_end_the_run_and_the_agent_goes_on_with_the_next_message(
    client: Letta, engine: OpenAIDouble, make: Any
) -> None:
    agent = make()
    engine.script(text("Just words."))
    answer = send(client, agent)
    assert seen(answer.messages) == [("reasoning", "Just words.")]
    assert answer.stop_reason.stop_reason == "no_tool_call"
    assert client.runs.list(agent_id=agent.id).items[0].status == "failed"
    engine.script(call("send_message", SAYS))
    assert seen(send(client, agent).messages)[-1] == SHOWN[-1]


def test_of_several_calls_only_the_first_is_made_and_shown(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, make: Any
) -> None:
    agent = make()
    both = calls([("call_1", "look", {"quay": "north", "request_heartbeat": False}), ("call_2", "fail", {"quay": "x"})])
    engine.script(both, both)
    answer = send(client, agent)
    assert [kind for kind, _ in seen(answer.messages)] == ["tool_call", "tool_return"]
    _, raw = post(
        f"{server.url}/v1/agents/{agent.id}/messages",
        {"input": "How many?", "streaming": True, "stream_tokens": True},
    )
    assert b"call_2" not in raw and frames(raw)[-1] == "[DONE]"


def test_without_inner_thoughts_there_is_no_such_argument(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    agent = make(model_settings={"provider_type": "openai", "put_inner_thoughts_in_kwargs": False})
    engine.script(call("look", LOOKS | {"request_heartbeat": False}))
    answer = send(client, agent)
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in engine.requests[-1]["tools"]}
    assert list(tools["look"]["properties"]) == ["quay", "request_heartbeat"]
    assert [kind for kind, _ in seen(answer.messages)] == ["tool_call", "tool_return"]


def test_response_format_is_the_form_of_what_is_said(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    schema = {"type": "object", "properties": {"boats": {"type": "integer"}}, "required": ["boats"]}
    form = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema}}
    agent = make(model_settings={"provider_type": "openai", "response_format": form})
    engine.script(call("send_message", {"message": {"boats": "x"}}), call("send_message", {"message": {"boats": 3}}))
    answer = send(client, agent)
    first = engine.requests[-2]
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in first["tools"]}
    assert tools["send_message"]["properties"]["message"] == schema
    assert "response_format" not in first
    assert seen(answer.messages)[-1] == ("assistant", '{"boats": 3}')
    assert [kind for kind, _ in seen(answer.messages)] == ["assistant", "tool_return", "assistant"]


def test_a_person_can_be_asked_first(client: Letta, engine: OpenAIDouble, make: Any) -> None:
    agent = make()
    client.agents.tools.update_approval("look", agent_id=agent.id, body_requires_approval=True)
    engine.script(call("look", LOOKS), call("send_message", SAYS))
    answer = send(client, agent)
    assert answer.stop_reason.stop_reason == "requires_approval"
    request = answer.messages[-1]
    assert [m.message_type for m in answer.messages] == ["reasoning_message", "approval_request_message"]
    assert json.loads(request.tool_call.arguments) == {"quay": "north", "request_heartbeat": True}
    approval = {"type": "approval", "approve": True, "tool_call_id": request.tool_call.tool_call_id}
    answer = client.agents.messages.create(agent_id=agent.id, messages=[{"type": "approval", "approvals": [approval]}])
    assert seen(answer.messages) == SHOWN[2:]


def test_newer_agents_with_the_tool_call_it_like_any_other(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tools=["send_message"])
    engine.script(call("send_message", {"message": "Hi"}), text("Done."))
    answer = send(client, agent)
    assert [m.message_type for m in answer.messages] == [
        "tool_call_message",
        "tool_return_message",
        "assistant_message",
    ]
    assert engine.requests[-1].get("tool_choice") in (None, "auto")
