"""Messages sent with the real SDK: answers, streams frame by frame, listings, idempotency."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, call, calls, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import Names, frames, post

ROLL = '''
def roll(sides: int) -> str:
    """Roll a die.

    Args:
        sides (int): how many sides it has
    """
    return f"rolled {sides}"
'''

NULLS = {"name": None, "sender_id": None, "is_err": None, "seq_id": None, "run_id": "run-1"}


@pytest.fixture
def roll(client: Letta) -> Any:
    return client.tools.upsert(source_code=ROLL)


def kinds(messages: Any) -> list[str]:
    return [message.message_type for message in messages]


def test_an_answer(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    engine.script(text("Hello there."))
    answer = client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert kinds(answer.messages) == ["assistant_message"]
    assert answer.messages[0].content == "Hello there."
    assert answer.stop_reason.stop_reason == "end_turn"
    assert answer.usage.step_count == 1
    assert answer.usage.total_tokens == 15
    sent = engine.requests[-1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user"]
    assert sent[1]["content"] == "Hi"


def test_a_tool_is_called_and_its_return_goes_back(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(call("roll", {"sides": 6}, content="Rolling."), text("Done."))
    answer = client.agents.messages.create(agent_id=agent.id, messages=[{"role": "user", "content": "Roll"}])
    assert kinds(answer.messages) == [
        "assistant_message",
        "tool_call_message",
        "tool_return_message",
        "assistant_message",
    ]
    assert answer.messages[2].tool_return == "rolled 6"
    assert answer.messages[2].status == "success"
    assert answer.usage.step_count == 2
    roles = [message["role"] for message in engine.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool"]


def test_a_step_stream_frame_by_frame(
    server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(call("roll", {"sides": 6}, id="call_9"), text("It rolled 6."))
    status, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", {"input": "Roll", "streaming": True})
    assert status == 200
    seen = Names().plain(frames(raw))
    returned = {
        "tool_return": "rolled 6",
        "status": "success",
        "tool_call_id": "call_9",
        "stdout": None,
        "stderr": None,
    }
    made = {"name": "roll", "arguments": '{"sides": 6}', "tool_call_id": "call_9"}
    assert seen == [
        {**NULLS, "id": "ping-1", "date": "DATE", "message_type": "ping", "otid": None, "step_id": None},
        {
            **NULLS,
            "id": "message-2",
            "date": "DATE",
            "message_type": "tool_call_message",
            "otid": "message-2|0",
            "step_id": "step-3",
            "tool_call": made,
            "tool_calls": [made],
        },
        {
            **NULLS,
            "id": "message-4",
            "date": "DATE",
            "message_type": "tool_return_message",
            "otid": "message-4|0",
            "step_id": "step-3",
            **returned,
            "tool_returns": [{"type": "tool", **returned}],
        },
        {
            **NULLS,
            "id": "message-5",
            "date": "DATE",
            "message_type": "assistant_message",
            "otid": "message-5|0",
            "step_id": "step-6",
            "content": "It rolled 6.",
        },
        {"message_type": "stop_reason", "stop_reason": "end_turn"},
        {
            "message_type": "usage_statistics",
            "completion_tokens": 10,
            "prompt_tokens": 20,
            "total_tokens": 30,
            "step_count": 2,
            "run_ids": None,
            "cached_input_tokens": None,
            "cache_write_tokens": None,
            "reasoning_tokens": None,
            "context_tokens": 15,
        },
        "[DONE]",
    ]


def test_a_token_stream_frame_by_frame(
    server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(
        {**call("roll", {"n": 1}, id="call_9", content="Let me"), "reasoning": "Need", "pieces": 2},
        text("ok", pieces=1),
    )
    body = {"input": "Roll", "streaming": True, "stream_tokens": True, "include_pings": False}
    _, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", body)
    seen = Names().plain(frames(raw))
    short = [
        (
            item["message_type"],
            item.get("otid"),
            item.get("reasoning") or item.get("content") or item.get("tool_call") or item.get("status"),
        )
        if isinstance(item, dict)
        else item
        for item in seen
    ]
    assert short == [
        ("reasoning_message", "message-1|0", "Ne"),
        ("reasoning_message", "message-1|0", "ed"),
        ("assistant_message", "message-1|1", "Let"),
        ("assistant_message", "message-1|1", " me"),
        ("tool_call_message", "message-1|2", {"name": "roll", "tool_call_id": "call_9"}),
        ("tool_call_message", "message-1|2", {"arguments": '{"n"', "tool_call_id": "call_9"}),
        ("tool_call_message", "message-1|2", {"arguments": ": 1}", "tool_call_id": "call_9"}),
        ("tool_return_message", "message-4|0", "error"),
        ("assistant_message", "message-5|0", "ok"),
        ("stop_reason", None, None),
        ("usage_statistics", None, None),
        "[DONE]",
    ]
    delta = seen[4]
    assert delta["tool_call"] == delta["tool_calls"]
    listed = Letta(base_url=server.url).agents.messages.list(agent_id=agent.id).items
    assert [message.message_type for message in listed] == [
        "system_message",
        "user_message",
        "reasoning_message",
        "assistant_message",
        "tool_call_message",
        "tool_return_message",
        "assistant_message",
    ]
    streamed = {item["otid"] for item in frames(raw) if isinstance(item, dict) and item.get("otid")}
    assert streamed == {message.otid for message in listed[2:]}


def test_parallel_calls_are_answered_in_order(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(calls([("call_a", "roll", {"sides": 1}), ("call_b", "roll", {"sides": 2})]), text("ok"))
    answer = client.agents.messages.create(agent_id=agent.id, input="Roll two")
    returned = answer.messages[1]
    assert [item.tool_call_id for item in returned.tool_returns] == ["call_a", "call_b"]
    assert [item.tool_return for item in returned.tool_returns] == ["rolled 1", "rolled 2"]
    tools = [message for message in engine.requests[-1]["messages"] if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in tools] == ["call_a", "call_b"]


def test_the_loop_ends_at_max_steps(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(*(call("roll", {"sides": n}) for n in range(1, 9)))
    answer = client.agents.messages.create(agent_id=agent.id, input="Roll on", max_steps=3)
    assert answer.stop_reason.stop_reason == "max_steps"
    assert answer.usage.step_count == 3


def test_bad_calls_are_told_to_the_model_and_it_recovers(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(
        call("roll", '{"sides": '), call("roll", {"wrong": 1}), call("fly", {}), call("roll", {"sides": 2}), text("ok")
    )
    answer = client.agents.messages.create(agent_id=agent.id, input="Roll")
    returns = [message for message in answer.messages if message.message_type == "tool_return_message"]
    assert [message.status for message in returns] == ["error", "error", "error", "success"]
    assert "JSON" in returns[0].tool_return
    assert "sides" in returns[1].tool_return
    assert "roll" in returns[2].tool_return
    assert answer.stop_reason.stop_reason == "end_turn"


def test_truncated_answers_say_so_on_both_ways(
    server: ServerProcess, client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("half an ans", finish="length"), text("half an ans", finish="length"))
    answer = client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert answer.stop_reason.stop_reason == "max_tokens_exceeded"
    body = {"input": "Hi", "streaming": True, "stream_tokens": True}
    _, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", body)
    assert {"message_type": "stop_reason", "stop_reason": "max_tokens_exceeded"} in frames(raw)


def test_the_same_otid_is_the_same_run(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    engine.script(text("once"), text("twice"))
    message = {"role": "user", "content": "Hi", "otid": "my-otid-1"}
    first = client.agents.messages.create(agent_id=agent.id, messages=[message])
    second = client.agents.messages.create(agent_id=agent.id, messages=[message])
    assert first.messages[0].id == second.messages[0].id
    assert second.messages[0].content == "once"
    assert len(engine.requests) == 1
    listed = client.agents.messages.list(agent_id=agent.id).items
    assert [item.otid for item in listed if item.message_type == "user_message"] == ["my-otid-1"]


def test_two_messages_at_once_are_answered_one_after_the_other(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.default = lambda body: text("re: " + body["messages"][-1]["content"], delay_s=0.1)
    threads = [
        threading.Thread(target=lambda n=n: client.agents.messages.create(agent_id=agent.id, input=f"m{n}"))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.default = text("ok")
    said = [
        m.content for m in client.agents.messages.list(agent_id=agent.id).items if m.message_type != "system_message"
    ]
    assert len(said) == 12
    for at in range(0, 12, 2):
        assert said[at + 1] == f"re: {said[at]}"


def test_a_background_stream_can_be_taken_up_again(
    server: ServerProcess, client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("abcdefghij", pieces=10))
    body = {"input": "Hi", "streaming": True, "stream_tokens": True, "background": True}
    _, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", body)
    whole = frames(raw)
    numbers = [item["seq_id"] for item in whole if isinstance(item, dict) and item.get("seq_id")]
    assert numbers == list(range(1, len(numbers) + 1))
    run_id = whole[0]["run_id"]
    for after in range(len(whole)):
        _, again = post(f"{server.url}/v1/runs/{run_id}/stream", {"starting_after": after})
        assert frames(again) == whole[after:]
    assert client.runs.retrieve(run_id).status == "completed"


def test_a_run_without_background_cannot_be_streamed_again(
    server: ServerProcess, client: Letta, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    run = client.runs.list(agent_id=agent.id).items[0]
    status, _ = post(f"{server.url}/v1/runs/{run.id}/stream", {})
    assert status == 400
    status, _ = post(f"{server.url}/v1/runs/run-00000000-0000-4000-8000-000000000000/stream", {})
    assert status == 404


def test_listing_pages(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    for n in range(5):
        engine.script(text(f"answer {n}"))
        client.agents.messages.create(agent_id=agent.id, input=f"question {n}")
    every = client.agents.messages.list(agent_id=agent.id, order="asc").items
    assert [m.message_type for m in every][:3] == ["system_message", "user_message", "assistant_message"]
    assert len(every) == 11
    newest = client.agents.messages.list(agent_id=agent.id, limit=1).items
    assert newest[0].id == every[-1].id
    after = client.agents.messages.list(agent_id=agent.id, after=every[2].id).items
    assert after[0].id == every[3].id
    before = client.agents.messages.list(agent_id=agent.id, before=every[3].id, limit=2).items
    assert [m.id for m in before] == [every[1].id, every[2].id]
    assert [m.id for m in client.agents.messages.list(agent_id=agent.id, limit=3, order="asc")] == [m.id for m in every]
    with pytest.raises(APIStatusError) as unknown:
        client.agents.messages.list(agent_id=agent.id, after="message-00000000-0000-4000-8000-000000000000")
    assert unknown.value.status_code == 404


def test_a_message_can_be_retrieved_as_its_parts(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(call("roll", {"sides": 3}, content="Now."), text("ok"))
    answer = client.agents.messages.create(agent_id=agent.id, input="Roll")
    parts = client.messages.retrieve(answer.messages[0].id)
    assert [part.message_type for part in parts] == ["assistant_message", "tool_call_message"]


def test_filtered_types_leave_stop_and_usage(
    server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any], roll: Any
) -> None:
    agent = new_agent(tool_ids=[roll.id])
    engine.script(call("roll", {"sides": 3}), text("ok"))
    body = {"input": "Roll", "streaming": True, "include_return_message_types": ["tool_return_message"]}
    _, raw = post(f"{server.url}/v1/agents/{agent.id}/messages", body)
    seen = [item["message_type"] if isinstance(item, dict) else item for item in frames(raw)]
    assert seen == ["ping", "tool_return_message", "stop_reason", "usage_statistics", "[DONE]"]


def test_reset_forgets_what_was_said(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    client.agents.messages.reset(agent_id=agent.id)
    assert kinds(client.agents.messages.list(agent_id=agent.id).items) == ["system_message"]
    client.agents.messages.create(agent_id=agent.id, input="Again")
    assert [m["role"] for m in engine.requests[-1]["messages"]] == ["system", "user"]


def test_a_run_can_be_cancelled_while_the_model_answers(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("never", delay_s=30))
    run = client.agents.messages.create_async(agent_id=agent.id, input="Hi")
    time.sleep(0.2)
    began = time.monotonic()
    assert client.agents.messages.cancel(agent_id=agent.id) == {run.id: "cancelled"}
    assert time.monotonic() - began < 1
    assert client.runs.retrieve(run.id).status == "cancelled"
    engine.script(text("fine"))
    assert client.agents.messages.create(agent_id=agent.id, input="And now?").messages[0].content == "fine"
