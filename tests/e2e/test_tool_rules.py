"""Tool rules with the real SDK: within a step, from step to step, and across approvals."""

from collections.abc import Callable
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, calls, text


def source(name: str) -> str:
    return f'''
def {name}(value: str = "none") -> str:
    """A step of the work.

    Args:
        value (str): what to say back
    """
    return f"{name}:{{value}}"
'''


@pytest.fixture
def worker(client: Letta, new_agent: Callable[..., Any]) -> Callable[..., Any]:
    """Makes agents with the tools first, second, third and the rules given; `asks` names those that need approval."""

    def make(*rules: dict[str, Any], asks: tuple[str, ...] = ()) -> Any:
        tools = [client.tools.upsert(source_code=source(name)) for name in ("first", "second", "third")]
        asking = [{"type": "requires_approval", "tool_name": name} for name in asks]
        return new_agent(tool_ids=[tool.id for tool in tools], tool_rules=[*rules, *asking])

    return make


def send(client: Letta, agent: Any, *messages: dict[str, Any], **more: Any) -> Any:
    given = list(messages) or [{"role": "user", "content": "Go"}]
    return client.agents.messages.create(agent_id=agent.id, messages=given, **more)


def approval(call_id: str, approve: bool = True) -> dict[str, Any]:
    answer = {"type": "approval", "tool_call_id": call_id, "approve": approve}
    return {"type": "approval", "approvals": [answer]}


def returns(answer: Any) -> list[tuple[str, str]]:
    """(status, text) of everything that tools returned."""
    found = [message for message in answer.messages if message.message_type == "tool_return_message"]
    return [(each.status, each.tool_return) for message in found for each in message.tool_returns]


def offered(engine: OpenAIDouble) -> list[tuple[list[str], Any]]:
    """(the tools a request offered, the one it forced) of every model call."""
    found: list[tuple[list[str], Any]] = []
    for request in engine.requests:
        choice = request.get("tool_choice")
        names = [tool["function"]["name"] for tool in request.get("tools") or ()]
        found.append((names, choice["function"]["name"] if isinstance(choice, dict) else choice))
    return found


def test_the_first_call_is_forced_and_its_arguments_filled_in(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]
) -> None:
    agent = worker({"type": "run_first", "tool_name": "first", "args": {"value": "mine"}})
    engine.script(call("first", {"value": "theirs"}), call("second", {"value": "b"}), text("Done."))
    answer = send(client, agent)
    assert returns(answer) == [("success", "first:mine"), ("success", "second:b")]
    assert offered(engine)[:2] == [(["first"], "first"), (["first", "second", "third"], None)]


def test_a_rule_that_fills_in_what_the_tool_does_not_take_ends_the_run(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]
) -> None:
    agent = worker({"type": "run_first", "tool_name": "first", "args": {"colour": "red"}})
    engine.script(call("first", {"value": "a"}))
    answer = send(client, agent)
    assert answer.stop_reason.stop_reason == "invalid_tool_call"
    [(status, told)] = returns(answer)
    assert status == "error"
    assert "colour" in told
    assert client.runs.retrieve(answer.messages[0].run_id).status == "failed"


def test_the_history_of_the_rules_goes_on_after_an_approval(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]
) -> None:
    """Neither is the first call asked for again, nor is what must follow it forgotten."""
    agent = worker(
        {"type": "run_first", "tool_name": "first"},
        {"type": "constrain_child_tools", "tool_name": "first", "children": ["second"]},
        {"type": "constrain_child_tools", "tool_name": "second", "children": ["third"]},
        asks=("second",),
    )
    engine.script(call("first", {}), call("second", {}, id="call_2"))
    assert send(client, agent).stop_reason.stop_reason == "requires_approval"
    engine.script(call("third", {}, id="call_3"), text("Done."))
    send(client, agent, approval("call_2"))
    assert [names for names, _ in offered(engine)[:3]] == [["first"], ["second"], ["third"]]
    assert offered(engine)[2][1] == "third"


def test_a_denied_call_was_not_made(client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]) -> None:
    agent = worker(
        {"type": "max_count_per_step", "tool_name": "second", "max_count_limit": 1},
        {"type": "constrain_child_tools", "tool_name": "second", "children": ["third"]},
        asks=("second",),
    )
    engine.script(call("second", {}))
    send(client, agent)
    send(client, agent, approval("call_1", approve=False))
    assert offered(engine)[-1] == (["first", "second", "third"], None)


def test_a_count_is_of_calls_made_in_the_request(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]
) -> None:
    agent = worker({"type": "max_count_per_step", "tool_name": "first", "max_count_limit": 2})
    engine.script(call("first", {}), calls([("call_2", "first", {}), ("call_3", "first", {})]), text("Done."))
    answer = send(client, agent)
    assert [status for status, _ in returns(answer)] == ["success", "success", "error"]
    assert "[ToolConstraintError]" in returns(answer)[2][1]
    assert offered(engine)[2] == (["second", "third"], None)
    engine.script(text("Again."))
    send(client, agent)
    assert offered(engine)[3] == (["first", "second", "third"], None)


def test_calls_of_one_step_are_judged_in_order(client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]) -> None:
    agent = worker({"type": "constrain_child_tools", "tool_name": "first", "children": ["second"]})
    made = [("call_1", "first", {}), ("call_2", "third", {}), ("call_3", "second", {})]
    engine.script(calls(made), text("Done."))
    assert [status for status, _ in returns(send(client, agent))] == ["success", "error", "success"]


def test_a_return_decides_what_is_called_next(client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]) -> None:
    rule = {"type": "conditional", "tool_name": "first", "child_output_mapping": {"first:x": "third"}}
    agent = worker({**rule, "default_child": "second"}, asks=("first",))
    engine.script(call("first", {"value": "x"}), call("third", {}, id="call_2"), text("Done."))
    send(client, agent)
    send(client, agent, approval("call_1"))
    assert offered(engine)[1] == (["third"], "third")
    engine.requests.clear()
    engine.script(call("first", {"value": "y"}, id="call_3"), call("second", {}, id="call_4"), text("Done."))
    send(client, agent)
    send(client, agent, approval("call_3"))
    assert offered(engine)[1] == (["second"], "second")


def test_what_a_client_returns_decides_too(client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]) -> None:
    agent = worker({"type": "conditional", "tool_name": "look", "child_output_mapping": {"1": "third"}})
    look = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    engine.script(call("look", {}))
    send(client, agent, client_tools=[look])
    returned = {"type": "tool", "tool_call_id": "call_1", "status": "success", "tool_return": "1.0"}
    send(client, agent, {"type": "tool_return", "tool_returns": [returned]}, client_tools=[look])
    assert offered(engine)[1] == (["third"], "third")


def test_an_approver_sees_the_arguments_that_will_be_used(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]
) -> None:
    agent = worker({"type": "run_first", "tool_name": "first", "args": {"value": "mine"}}, asks=("first",))
    engine.script(call("first", {"value": "theirs"}))
    request = send(client, agent).messages[-1]
    assert request.tool_call.arguments == '{"value":"mine"}'
    answer = send(client, agent, approval("call_1"))
    assert returns(answer) == [("success", "first:mine")]


@pytest.mark.parametrize("asks", [(), ("third",)])
def test_a_tool_that_ends_the_run_waits_for_those_that_must_be_called_before(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any], asks: tuple[str, ...]
) -> None:
    agent = worker(
        {"type": "exit_loop", "tool_name": "third"}, {"type": "required_before_exit", "tool_name": "first"}, asks=asks
    )
    ends = [call("third", {}, id="call_1"), call("first", {}, id="call_2"), call("third", {}, id="call_3")]
    engine.script(*ends)
    answer = send(client, agent)
    if asks:
        answer = send(client, agent, approval("call_1"))
        assert answer.stop_reason.stop_reason == "requires_approval"
        answer = send(client, agent, approval("call_3"))
    assert answer.stop_reason.stop_reason == "tool_rule"
    assert "must call: first" in engine.requests[1]["messages"][-1]["content"]
    assert len(engine.requests) == 3


def test_a_forbidden_call_is_not_asked_about(client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]) -> None:
    agent = worker({"type": "run_first", "tool_name": "first"}, asks=("second",))
    engine.script(call("second", {}), text("Done."))
    answer = send(client, agent)
    assert answer.stop_reason.stop_reason == "end_turn"
    assert "[ToolConstraintError]" in returns(answer)[0][1]


def test_rules_are_told_to_the_model(client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]) -> None:
    agent = worker(
        {"type": "run_first", "tool_name": "first"},
        {"type": "parent_last_tool", "tool_name": "second", "children": ["third"]},
        {"type": "exit_loop", "tool_name": "third"},
        {"type": "continue_loop", "tool_name": "second"},
        {"type": "constrain_child_tools", "tool_name": "first", "children": ["second"]},
    )
    send(client, agent)
    system = engine.requests[0]["messages"][0]["content"]
    assert system.count("<tool_rule>") == 5
    assert engine.requests[0]["parallel_tool_calls"] is False


def test_a_token_stream_asks_about_a_call_that_only_the_one_before_it_allowed(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]
) -> None:
    agent = worker(
        {"type": "run_first", "tool_name": "first"},
        {"type": "max_count_per_step", "tool_name": "second", "max_count_limit": 1},
        asks=("second",),
    )
    engine.script(calls([("call_1", "first", {}), ("call_2", "second", {}), ("call_3", "second", {})]))
    stream = send(client, agent, streaming=True, stream_tokens=True, include_pings=False)
    asked: dict[str, set[str]] = {}
    for event in stream:
        if event.message_type in ("tool_call_message", "approval_request_message"):
            asked.setdefault(event.message_type, set()).add(event.tool_call.tool_call_id)
    assert asked == {"tool_call_message": {"call_1", "call_3"}, "approval_request_message": {"call_2"}}
    engine.script(text("done"))
    assert [status for status, _ in returns(send(client, agent, approval("call_2")))] == ["success", "success", "error"]


def test_without_parallel_calls_a_stream_shows_only_the_call_that_counts(
    client: Letta, engine: OpenAIDouble, worker: Callable[..., Any]
) -> None:
    agent = worker()
    settings: Any = {"provider_type": "openai", "parallel_tool_calls": False}
    client.agents.update(agent.id, model_settings=settings)
    engine.script(calls([("call_1", "first", {}), ("call_2", "second", {})]), text("done"))
    stream = send(client, agent, streaming=True, stream_tokens=True, include_pings=False)
    shown = [event.tool_call.tool_call_id for event in stream if event.message_type == "tool_call_message"]
    assert set(shown) == {"call_1"}
    listed = [
        message for message in client.agents.messages.list(agent.id) if message.message_type == "tool_call_message"
    ]
    assert [[call.tool_call_id for call in message.tool_calls] for message in listed] == [["call_1"]]
