"""Tools that a person must approve, with the real SDK: asked, answered, denied, edited, repeated, cancelled, restarted."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, call, calls, failure, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import Names, frames, post

SEND = '''
def send_money(amount: int) -> str:
    """Send money.

    Args:
        amount (int): how much
    """
    return f"sent {amount}"
'''
LOOK = '''
def look(at: str) -> str:
    """Look at something.

    Args:
        at (str): what
    """
    return f"saw {at}"
'''


@pytest.fixture
def payer(client: Letta, new_agent: Callable[..., Any]) -> Any:
    """An agent with one tool that needs approval and one that does not."""
    send, look = (client.tools.upsert(source_code=source) for source in (SEND, LOOK))
    agent = new_agent(tool_ids=[send.id, look.id])
    client.agents.tools.update_approval(agent_id=agent.id, tool_name="send_money", body_requires_approval=True)
    return agent


def kinds(messages: Any) -> list[str]:
    return [message.message_type for message in messages]


def approve(call_id: str, approve: bool = True, **more: Any) -> list[dict[str, Any]]:
    answer = {"type": "approval", "tool_call_id": call_id, "approve": approve, **more}
    return [{"type": "approval", "approvals": [answer]}]


def ask(client: Letta, engine: OpenAIDouble, agent: Any, *, id: str = "call_1", content: str = "") -> Any:
    engine.script(call("send_money", {"amount": 5}, id=id, content=content))
    return client.agents.messages.create(agent_id=agent.id, input="Pay 5")


def history(client: Letta, agent: Any) -> list[str]:
    found = kinds(client.agents.messages.list(agent_id=agent.id, order="asc", limit=100))
    return [kind for kind in found if kind != "system_message"]


def test_an_approved_call_runs_in_the_step_that_asked(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    asked = ask(client, engine, payer, content="Paying.")
    assert kinds(asked.messages) == ["assistant_message", "approval_request_message"]
    assert asked.stop_reason.stop_reason == "requires_approval"
    request = asked.messages[1]
    assert request.otid == request.id
    assert request.tool_call.name == "send_money"
    assert [each.tool_call_id for each in request.tool_calls] == ["call_1"]
    engine.script(text("Paid."))
    answer = client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    assert kinds(answer.messages) == ["tool_return_message", "assistant_message"]
    assert answer.messages[0].tool_return == "sent 5"
    assert answer.messages[0].step_id == request.step_id
    assert answer.stop_reason.stop_reason == "end_turn"
    assert history(client, payer) == [
        "user_message",
        "assistant_message",
        "approval_request_message",
        "approval_response_message",
        "tool_return_message",
        "assistant_message",
    ]
    sent = engine.requests[-1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[2]["content"] == "Paying."
    assert sent[2]["tool_calls"][0]["id"] == "call_1"


def test_a_denial_tells_the_model_why(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    ask(client, engine, payer)
    engine.script(text("As you wish."))
    answer = client.agents.messages.create(
        agent_id=payer.id, messages=approve("call_1", approve=False, reason="too much")
    )
    assert kinds(answer.messages) == ["tool_return_message", "assistant_message"]
    assert answer.messages[0].status == "error"
    assert "denied" in answer.messages[0].tool_return
    assert "too much" in answer.messages[0].tool_return
    assert engine.requests[-1]["messages"][-1]["content"] == answer.messages[0].tool_return


def test_an_approver_may_edit_the_arguments(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    ask(client, engine, payer)
    answer = client.agents.messages.create(
        agent_id=payer.id, messages=approve("call_1", edited_arguments={"amount": 2})
    )
    assert "sent 2" in answer.messages[0].tool_return
    assert '{"amount":2}' in answer.messages[0].tool_return
    assert engine.requests[-1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"amount": 5}'
    listed = client.agents.messages.list(agent_id=payer.id, order="asc", limit=100)
    response = next(message for message in listed if message.message_type == "approval_response_message")
    assert response.approvals[0].model_extra["edited_arguments"] == '{"amount":2}'


def test_mixed_calls_wait_together_and_return_in_the_models_order(
    client: Letta, engine: OpenAIDouble, payer: Any
) -> None:
    made = [
        ("call_a", "look", {"at": "sky"}),
        ("call_b", "send_money", {"amount": 1}),
        ("call_c", "look", {"at": "sea"}),
        ("call_d", "send_money", {"amount": 2}),
    ]
    engine.script(calls(made, content="All of it."))
    asked = client.agents.messages.create(agent_id=payer.id, input="Go")
    assert kinds(asked.messages) == ["assistant_message", "tool_call_message", "approval_request_message"]
    assert [each.tool_call_id for each in asked.messages[1].tool_calls] == ["call_a", "call_c"]
    assert [each.tool_call_id for each in asked.messages[2].tool_calls] == ["call_b", "call_d"]
    assert "tool_return_message" not in history(client, payer)
    answers = [
        {"type": "approval", "tool_call_id": "call_d", "approve": False},
        {"type": "approval", "tool_call_id": "call_b", "approve": True},
    ]
    answer = client.agents.messages.create(agent_id=payer.id, messages=[{"type": "approval", "approvals": answers}])
    returned = answer.messages[0].tool_returns
    assert [each.tool_call_id for each in returned] == ["call_a", "call_b", "call_c", "call_d"]
    assert [each.status for each in returned] == ["success", "success", "success", "error"]
    sent = engine.requests[-1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "tool", "tool", "tool"]
    assert [each["id"] for each in sent[2]["tool_calls"]] == ["call_a", "call_b", "call_c", "call_d"]


def test_a_plain_message_meanwhile_is_refused_and_leaves_no_trace(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, payer: Any
) -> None:
    asked = ask(client, engine, payer)
    with pytest.raises(APIStatusError) as refused:
        client.agents.messages.create(agent_id=payer.id, messages=[{"role": "user", "content": "Hm?", "otid": "o-1"}])
    assert refused.value.status_code == 409
    assert refused.value.response.headers["x-should-retry"] == "false"
    detail = refused.value.body["detail"]
    assert detail["code"] == "PENDING_APPROVAL"
    assert detail["pending_request_id"] == asked.messages[0].id
    assert "waiting for approval" in detail["message"]
    assert "approve or deny" in detail["message"]
    assert history(client, payer) == ["user_message", "approval_request_message"]
    assert client.agents.retrieve(payer.id).last_stop_reason == "requires_approval"
    client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    again = client.agents.messages.create(
        agent_id=payer.id, messages=[{"role": "user", "content": "Hm?", "otid": "o-1"}]
    )
    assert kinds(again.messages) == ["assistant_message"]


def test_a_stream_tells_of_the_pending_request_in_band(
    server: ServerProcess, client: Letta, engine: OpenAIDouble, payer: Any
) -> None:
    ask(client, engine, payer)
    status, raw = post(f"{server.url}/v1/agents/{payer.id}/messages", {"input": "Hm?", "streaming": True})
    assert status == 200
    ping, stop, (kind, error), done = frames(raw)
    assert stop == {"message_type": "stop_reason", "stop_reason": "error"}
    assert (kind, error["error_type"], done) == ("error", "internal_error", "[DONE]")
    assert "waiting for approval" in error["message"]
    run = client.runs.retrieve(ping["run_id"])
    assert (run.status, run.stop_reason) == ("failed", "error")
    assert "waiting for approval" in run.metadata["error"]["detail"]


def test_answers_for_other_calls_are_refused(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    with pytest.raises(APIStatusError) as nothing:
        client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    assert nothing.value.status_code == 400
    assert "No tool call is currently awaiting approval" in nothing.value.body["detail"]
    ask(client, engine, payer)
    with pytest.raises(APIStatusError) as wrong:
        client.agents.messages.create(agent_id=payer.id, messages=approve("call_9"))
    assert wrong.value.status_code == 400
    assert "call_1" in wrong.value.body["detail"]
    assert "call_9" in wrong.value.body["detail"]
    answer = client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    assert answer.messages[0].tool_return == "sent 5"


def test_a_repeated_answer_gets_the_same_run(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    ask(client, engine, payer)
    engine.script(text("Paid."))
    first = client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    asked = len(engine.requests)
    for again in (approve("call_1"), approve("call_1", approve=False)):
        assert client.agents.messages.create(agent_id=payer.id, messages=again).messages == first.messages
    assert len(engine.requests) == asked
    assert history(client, payer).count("tool_return_message") == 1


def test_a_repeated_answer_takes_up_a_run_that_failed(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    ask(client, engine, payer)
    engine.script(failure(401))
    with pytest.raises(APIStatusError):
        client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    engine.script(text("Paid after all."))
    answer = client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    assert [message.content for message in answer.messages] == ["Paid after all."]
    assert history(client, payer).count("tool_return_message") == 1


def test_a_failed_run_is_not_taken_up_again_while_another_request_waits(
    client: Letta, engine: OpenAIDouble, payer: Any
) -> None:
    ask(client, engine, payer)
    engine.script(failure(401))
    with pytest.raises(APIStatusError):
        client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    waiting = ask(client, engine, payer, id="call_2").messages[0]
    asked = len(engine.requests)
    with pytest.raises(APIStatusError) as error:
        client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    assert error.value.status_code == 409 and waiting.id in str(error.value.body)
    assert len(engine.requests) == asked
    engine.script(text("Paid."))
    answer = client.agents.messages.create(agent_id=payer.id, messages=approve("call_2"))
    assert answer.messages[-1].content == "Paid."
    assert history(client, payer).count("tool_return_message") == 2


def test_old_clients_answer_by_the_requests_message_id(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    request = ask(client, engine, payer).messages[0]
    old = {"type": "approval", "approve": True, "approval_request_id": request.id}
    answer = client.agents.messages.create(agent_id=payer.id, messages=[old])
    assert answer.messages[0].tool_return == "sent 5"


def test_messages_after_an_answer_follow_its_returns(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    ask(client, engine, payer)
    more = [*approve("call_1"), {"role": "user", "content": "And thanks."}]
    client.agents.messages.create(agent_id=payer.id, messages=more)
    assert history(client, payer)[-3:] == ["tool_return_message", "user_message", "assistant_message"]
    roles = [message["role"] for message in engine.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]


def test_the_agent_shows_what_it_waits_for(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    def pending() -> Any:
        return client.agents.retrieve(payer.id, include=["agent.pending_approval"]).pending_approval

    assert pending() is None
    request = ask(client, engine, payer).messages[0]
    assert pending().id == request.id
    assert client.agents.retrieve(payer.id).pending_approval is None
    runs = client.runs.list(agent_id=payer.id, stop_reason="requires_approval")
    assert [run.id for run in runs] == [request.run_id]
    client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    assert pending() is None


@pytest.mark.parametrize("named", [True, False])
def test_cancelling_the_run_that_asked_denies_its_calls(
    client: Letta, engine: OpenAIDouble, payer: Any, named: bool
) -> None:
    run_id = ask(client, engine, payer).messages[0].run_id
    chosen = {"run_ids": [run_id]} if named else {}
    assert client.agents.messages.cancel(agent_id=payer.id, **chosen) == {run_id: "cancelled"}
    assert client.runs.retrieve(run_id).status == "cancelled"
    assert history(client, payer)[-2:] == ["approval_response_message", "tool_return_message"]
    with pytest.raises(APIStatusError) as late:
        client.agents.messages.create(agent_id=payer.id, messages=approve("call_1"))
    assert late.value.status_code == 400
    engine.script(text("Never mind."))
    answer = client.agents.messages.create(agent_id=payer.id, input="Go on")
    assert [message.content for message in answer.messages] == ["Never mind."]
    roles = [message["role"] for message in engine.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]


def test_an_answered_run_that_is_cancelled_leaves_no_open_call(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    ask(client, engine, payer)
    engine.gate = threading.Event()
    run = client.agents.messages.create_async(agent_id=payer.id, messages=approve("call_1"))
    client.agents.messages.cancel(agent_id=payer.id, run_ids=[run.id])
    engine.gate.set()
    engine.gate = None
    client.agents.messages.create(agent_id=payer.id, input="Go on")
    assert history(client, payer).count("tool_return_message") == 1
    roles = [message["role"] for message in engine.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]


def test_a_token_stream_asks_in_deltas(server: ServerProcess, engine: OpenAIDouble, payer: Any) -> None:
    made = [("call_a", "look", {"at": "sky"}), ("call_b", "send_money", {"amount": 1})]
    engine.script(calls(made, content="Hm."))
    body = {"input": "Go", "streaming": True, "stream_tokens": True}
    status, raw = post(f"{server.url}/v1/agents/{payer.id}/messages", body)
    assert status == 200
    raw_frames = [frame for frame in frames(raw) if not isinstance(frame, str)]
    parts = [frame for frame in raw_frames if "tool_call" in frame]
    first, last = parts[0], parts[-1]
    assert first["message_type"] == "tool_call_message"
    assert last["message_type"] == "approval_request_message"
    assert int(first["id"][8:].replace("-", ""), 16) - 1 == int(last["id"][8:].replace("-", ""), 16)
    assert last["otid"] == last["id"]
    assert "name" in last["tool_calls"]
    assert "".join(f["tool_call"].get("arguments", "") for f in parts if f["id"] == last["id"]) == '{"amount": 1}'
    assert raw_frames[-2] == {"message_type": "stop_reason", "stop_reason": "requires_approval"}
    _, raw = post(f"{server.url}/v1/agents/{payer.id}/messages", {**body_of(approve("call_b")), **_streams()})
    seen = Names().plain([frame for frame in frames(raw) if not isinstance(frame, str)])
    assert list(dict.fromkeys(frame["message_type"] for frame in seen)) == [
        "ping",
        "tool_return_message",
        "assistant_message",
        "stop_reason",
        "usage_statistics",
    ]
    assert [each["tool_call_id"] for each in seen[1]["tool_returns"]] == ["call_a", "call_b"]


def body_of(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"messages": messages}


def _streams() -> dict[str, Any]:
    return {"streaming": True, "stream_tokens": True}


def test_streamed_and_stored_parts_agree(
    server: ServerProcess, client: Letta, engine: OpenAIDouble, payer: Any
) -> None:
    made = [("call_a", "look", {"at": "sky"}), ("call_b", "send_money", {"amount": 1})]
    engine.script(calls(made, content="Hm."))
    _, raw = post(f"{server.url}/v1/agents/{payer.id}/messages", {"input": "Go", **_streams()})
    streamed = {(f["id"], f["otid"], f["message_type"]) for f in frames(raw) if not isinstance(f, str) and "otid" in f}
    listed = client.agents.messages.list(agent_id=payer.id, order="asc", limit=100)
    stored = {(m.id, m.otid, m.message_type) for m in listed if m.step_id is not None}
    assert {part for part in streamed if part[2] != "ping"} == stored


def test_an_approval_outlives_the_server(own_server: Callable[..., ServerProcess], engine: OpenAIDouble) -> None:
    process = own_server()
    client = Letta(base_url=process.url, max_retries=0)
    tool = client.tools.upsert(source_code=SEND, default_requires_approval=True)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False, tool_ids=[tool.id])
    asked = ask(client, engine, agent)
    assert asked.stop_reason.stop_reason == "requires_approval"
    process.kill()
    process.start()
    with pytest.raises(APIStatusError):
        client.agents.messages.create(agent_id=agent.id, input="Hm?")
    answer = client.agents.messages.create(agent_id=agent.id, messages=approve("call_1"))
    assert kinds(answer.messages) == ["tool_return_message", "assistant_message"]


def test_a_request_nobody_answers_expires(own_server: Callable[..., ServerProcess], engine: OpenAIDouble) -> None:
    process = own_server(PERDURE_APPROVAL_EXPIRY="0.001")
    client = Letta(base_url=process.url, max_retries=0)
    tool = client.tools.upsert(source_code=SEND, default_requires_approval=True)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False, tool_ids=[tool.id])
    ask(client, engine, agent)
    shown = client.agents.retrieve(agent.id, include=["agent.pending_approval"])
    assert shown.pending_approval is None
    with pytest.raises(APIStatusError) as late:
        client.agents.messages.create(agent_id=agent.id, messages=approve("call_1"))
    assert late.value.status_code == 400
    answer = client.agents.messages.create(agent_id=agent.id, input="Hello?")
    assert kinds(answer.messages) == ["assistant_message"]
    assert history(client, agent) == [
        "user_message",
        "approval_request_message",
        "approval_response_message",
        "tool_return_message",
        "user_message",
        "assistant_message",
    ]


def test_a_conversation_waits_by_itself(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    conversation = client.conversations.create(agent_id=payer.id)
    engine.script(call("send_money", {"amount": 5}))
    request, stop, *_ = list(client.conversations.messages.create(conversation.id, input="Pay", include_pings=False))
    assert (request.message_type, stop.stop_reason) == ("approval_request_message", "requires_approval")
    engine.script(text("Hello."))
    assert kinds(client.agents.messages.create(agent_id=payer.id, input="Hi").messages) == ["assistant_message"]
    with pytest.raises(APIStatusError, match="waiting for approval"):
        list(client.conversations.messages.create(conversation.id, input="Hm?"))
    assert client.conversations.cancel(conversation.id) == {request.run_id: "cancelled"}
    answer, *_ = list(client.conversations.messages.create(conversation.id, input="Hm?", include_pings=False))
    assert answer.message_type == "assistant_message"


def test_a_request_outlives_a_compaction(client: Letta, engine: OpenAIDouble, payer: Any) -> None:
    for number in range(4):
        client.agents.messages.create(agent_id=payer.id, input=f"Remember {number}.")
    made = [("call_a", "look", {"at": "sky"}), ("call_b", "send_money", {"amount": 5})]
    engine.script(calls(made, content="Both."))
    client.agents.messages.create(agent_id=payer.id, input="Go")
    engine.script(text("They remembered four things."))
    client.agents.messages.compact(payer.id)
    shown = client.agents.retrieve(payer.id, include=["agent.pending_approval"])
    assert shown.pending_approval is not None
    engine.script(text("Done."))
    answer = client.agents.messages.create(agent_id=payer.id, messages=approve("call_b"))
    assert [each.tool_return for each in answer.messages[0].tool_returns] == ["saw sky", "sent 5"]
    sent = engine.requests[-1]["messages"]
    assert [each["id"] for each in sent[-3]["tool_calls"]] == ["call_a", "call_b"]
    assert [message["role"] for message in sent[-2:]] == ["tool", "tool"]
    assert "They remembered four things." in str(sent)
    assert "Remember 0." not in str(sent)


def test_of_two_clients_answers_at_once_one_counts_and_both_get_its_run(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, payer: Any
) -> None:
    for turn in range(3):
        ask(client, engine, payer, id=f"call_{turn}")
        engine.script(text("done"))
        others = [Letta(base_url=server.url, max_retries=0) for _ in range(4)]
        found: list[Any] = []

        def answer(at: int, other: Letta, turn: int = turn, found: list[Any] = found) -> None:
            said = approve(f"call_{turn}", at % 2 == 0)
            found.append(other.agents.messages.create(agent_id=payer.id, messages=said))

        threads = [threading.Thread(target=answer, args=(at, other)) for at, other in enumerate(others)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len({tuple(message.id for message in each.messages) for each in found}) == 1
        assert not engine.turns  # the model went on once
    listed = history(client, payer)
    assert listed.count("tool_return_message") == listed.count("approval_response_message") == 3


def test_a_call_whose_client_is_gone_for_good_never_keeps_the_agent(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    """The request was streamed, and whoever read it is gone; others deny it, or cancel it, or wait until it expires."""
    server = own_server(PERDURE_APPROVAL_EXPIRY="1")
    client = Letta(base_url=server.url, max_retries=0)
    tool = client.tools.upsert(source_code=SEND)
    agent = client.agents.create(model="openai/gpt-test", tool_ids=[tool.id], include_base_tools=False)
    client.agents.tools.update_approval(agent_id=agent.id, tool_name="send_money", body_requires_approval=True)
    engine.script(call("send_money", {"amount": 5}))
    with client.agents.messages.create(agent_id=agent.id, input="Pay 5", streaming=True) as stream:
        next(event for event in stream if event.message_type == "approval_request_message")  # and it hangs up
    deadline = time.monotonic() + 20
    while True:
        engine.turns.clear()
        engine.script(text("free again"))
        try:
            answer = client.agents.messages.create(agent_id=agent.id, input="hello?")
            break
        except APIStatusError as error:
            assert error.status_code == 409 and time.monotonic() < deadline
            time.sleep(0.2)
    assert answer.messages[-1].content == "free again"
    assert kinds(client.agents.messages.list(agent_id=agent.id, order="asc")).count("tool_return_message") <= 1
