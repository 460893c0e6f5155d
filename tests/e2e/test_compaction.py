"""Conversations that outgrow their window, with the real SDK: what clients are told, what is kept, what is counted."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, Turn, call, failure, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import frames, post
from tests.e2e.test_crash import ended

WINDOW = 4_000
OVERFLOW = failure(
    400,
    {
        "error": {
            "message": f"This model's maximum context length is {WINDOW} tokens.",
            "type": "invalid_request_error",
            "code": "context_length_exceeded",
        }
    },
)
SEND = '''
def send_money(amount: int) -> str:
    """Send money.

    Args:
        amount (int): how much
    """
    return f"sent {amount}"
'''
LONG = "and so it went on, " * 20


def full(content: str, tokens: int = 3_900) -> Turn:
    """An answer after which the provider counts so many tokens in context."""
    return text(content, usage={"prompt_tokens": tokens - 5, "completion_tokens": 5, "total_tokens": tokens})


def talk(client: Letta, agent_id: str, turns: int) -> None:
    for turn in range(turns):
        client.agents.messages.create(agent_id, input=f"question {turn} {LONG}")


def kinds(messages: Any) -> list[str]:
    return [message.message_type for message in messages]


def refused(status: int, work: Callable[[], Any]) -> str:
    with pytest.raises(APIStatusError) as error:
        work()
    assert error.value.status_code == status, error.value.body
    return str(error.value.body)


@pytest.fixture
def talker(client: Letta, new_agent: Callable[..., Any]) -> Any:
    """An agent with a few exchanges behind it."""
    agent = new_agent(context_window_limit=WINDOW, system="Be kind.")
    talk(client, agent.id, 5)
    return agent


# -- what clients are told


def test_a_stream_tells_of_a_compaction_before_and_after(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    engine.script(full("the answer"), text("They asked five questions."))
    stream = client.agents.messages.create(
        talker.id, input="more", streaming=True, include_pings=False, include_compaction_messages=True
    )
    events = list(stream)
    assert kinds(events) == [
        "assistant_message",
        "event_message",
        "summary_message",
        "stop_reason",
        "usage_statistics",
    ]
    _, started, summary, stop, usage = events
    assert started.event_type == "compaction"
    assert started.event_data == {
        "trigger": "post_step_context_check",
        "context_token_estimate": 3_900,
        "context_window": WINDOW,
    }
    assert summary.summary == "They asked five questions."
    stats = summary.to_dict()["compaction_stats"]
    assert (stats["trigger"], stats["context_window"]) == ("post_step_context_check", WINDOW)
    assert stats["messages_count_before"] == 13 > stats["messages_count_after"]
    assert stats["context_tokens_before"] == 3_900 > stats["context_tokens_after"]
    assert stop.stop_reason == "end_turn" and usage.step_count == 1
    assert usage.total_tokens == 3_900 + 15


def test_a_sync_answer_tells_of_a_compaction_too(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    engine.script(full("the answer"), text("the notes"))
    answer = client.agents.messages.create(talker.id, input="more", include_compaction_messages=True)
    assert kinds(answer.messages) == ["assistant_message", "event_message", "summary_message"]
    assert answer.messages[2].summary == "the notes"


def test_a_conversations_stream_honours_the_flag(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(context_window_limit=WINDOW)
    conversation = client.conversations.create(agent_id=agent.id)
    for turn in range(5):
        list(client.conversations.messages.create(conversation.id, input=f"question {turn} {LONG}"))
    engine.script(full("the answer"), text("the notes"))
    stream = client.conversations.messages.create(conversation.id, input="more", include_compaction_messages=True)
    told = [kind for kind in kinds(stream) if kind != "ping"]
    assert told == ["assistant_message", "event_message", "summary_message", "stop_reason", "usage_statistics"]
    assert client.conversations.retrieve(conversation.id).in_context_message_ids is not None
    assert len(client.agents.retrieve(agent.id).message_ids or []) == 1


@pytest.mark.parametrize("streaming", [True, False])
def test_who_does_not_ask_gets_a_user_message(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, talker: Any, streaming: bool
) -> None:
    engine.script(full("the answer"), text("the notes"))
    body = {"input": "more", "streaming": streaming, **({"include_pings": False} if streaming else {})}
    status, raw = post(f"{server.url}/v1/agents/{talker.id}/messages", body)
    assert status == 200
    told = frames(raw)[:2] if streaming else json.loads(raw)["messages"]
    assert [item["message_type"] for item in told] == ["assistant_message", "user_message"]
    packed = json.loads(told[1]["content"])
    assert packed["type"] == "system_alert" and packed["message"].endswith("the notes")


def test_a_listing_shows_the_summary_as_a_client_asks_for_it(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    engine.script(full("the answer"), text("the notes"))
    client.agents.messages.create(talker.id, input="more")
    listed = client.agents.messages.list(talker.id, order="asc").items
    assert kinds(listed)[-2:] == ["assistant_message", "user_message"]
    assert json.loads(listed[-1].content)["message"].endswith("the notes")
    [summary] = client.agents.messages.list(talker.id, include_return_message_types=["summary_message"]).items
    assert summary.id == listed[-1].id and summary.otid == listed[-1].otid
    assert summary.summary == "the notes" and summary.compaction_stats.messages_count_before == 13
    assert kinds(client.messages.retrieve(summary.id)) == ["user_message"]


def test_a_compaction_in_a_background_stream_is_replayed_as_it_was(
    client: Letta, engine: OpenAIDouble, talker: Any
) -> None:
    engine.script(full("the answer"), text("the notes"))
    stream = client.agents.messages.create(
        talker.id, input="more", streaming=True, background=True, include_compaction_messages=True, include_pings=False
    )
    live = [event.to_dict() for event in stream]
    again = client.runs.messages.stream(live[0]["run_id"], starting_after=0, include_pings=False)
    assert [event.to_dict() for event in again] == live
    assert "summary_message" in [event["message_type"] for event in live]


# -- what is kept


def test_the_context_is_system_prompt_summary_and_tail(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    before = client.agents.retrieve(talker.id).message_ids or []
    engine.script(full("the answer"), text("the notes"))
    client.agents.messages.create(talker.id, input="more")
    after = client.agents.retrieve(talker.id).message_ids or []
    assert after[0] == before[0] and after[1] not in before
    assert len(after) < len(before) + 3 and set(before[-4:]) <= set(after)
    engine.requests.clear()
    client.agents.messages.create(talker.id, input="what did I ask?")
    asked = engine.requests[0]["messages"]
    assert [message["role"] for message in asked[:3]] == ["system", "user", "assistant"]
    assert asked[1]["content"].endswith("the notes") and asked[-1]["content"] == "what did I ask?"
    assert len(asked) == len(after) + 1


def test_nothing_is_lost_from_the_history(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    engine.script(full("the answer"), text("the notes"))
    client.agents.messages.create(talker.id, input="more")
    said = [
        m.content for m in client.agents.messages.list(talker.id, order="asc").items if m.message_type == "user_message"
    ]
    assert [f"question {turn}" for turn in range(5)] == [content[:10] for content in said[:5]]


def test_a_pending_approval_survives_a_compaction(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    tool = client.tools.upsert(source_code=SEND)
    agent = new_agent(context_window_limit=WINDOW, tool_ids=[tool.id])
    client.agents.tools.update_approval(agent_id=agent.id, tool_name="send_money", body_requires_approval=True)
    talk(client, agent.id, 3)
    engine.script(call("send_money", {"amount": 5}, content="One moment."))
    asked = client.agents.messages.create(agent.id, input="pay")
    assert asked.stop_reason.stop_reason == "requires_approval"
    engine.script(text("the notes"))
    compacted = client.agents.messages.compact(agent.id, compaction_settings={"mode": "all"})
    assert compacted.num_messages_after < compacted.num_messages_before
    pending = client.agents.retrieve(agent.id, include=["agent.pending_approval"]).pending_approval
    assert pending is not None
    engine.requests.clear()
    engine.script(text("paid"))
    answer = client.agents.messages.create(
        agent.id,
        messages=[
            {"type": "approval", "approvals": [{"type": "approval", "tool_call_id": "call_1", "approve": True}]}  # type: ignore[list-item]
        ],
    )
    assert kinds(answer.messages) == ["tool_return_message", "assistant_message"]
    shown = engine.requests[0]["messages"]
    assert [message["role"] for message in shown[-2:]] == ["assistant", "tool"]
    assert shown[-2]["tool_calls"][0]["id"] == "call_1" and "sent 5" in shown[-1]["content"]
    assert shown[1]["content"].endswith("the notes")


def test_a_fork_of_a_compacted_conversation_goes_on_from_its_summary(
    client: Letta, engine: OpenAIDouble, talker: Any
) -> None:
    engine.script(full("the answer"), text("the notes"))
    client.agents.messages.create(talker.id, input="more")
    fork = client.conversations.fork("default", agent_id=talker.id)
    engine.script(full("in the fork"), text("notes of the fork"))
    list(client.conversations.messages.create(fork.id, input="here?"))
    asked = engine.requests[-2]["messages"]
    assert any(str(message["content"]).endswith("the notes") for message in asked)
    engine.requests.clear()
    list(client.conversations.messages.create(fork.id, input="still?"))
    assert engine.requests[0]["messages"][1]["content"].endswith("notes of the fork")
    client.agents.messages.create(talker.id, input="and there?")
    assert engine.requests[1]["messages"][1]["content"].endswith("the notes")


# -- when it happens


def test_a_refused_prompt_is_compacted_and_sent_again(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    engine.requests.clear()
    engine.script(OVERFLOW, text("the notes"), text("the answer"))
    answer = client.agents.messages.create(talker.id, input="more", include_compaction_messages=True)
    assert kinds(answer.messages) == ["event_message", "summary_message", "assistant_message"]
    assert answer.messages[0].event_data["trigger"] == "context_window_exceeded"
    assert answer.stop_reason.stop_reason == "end_turn" and answer.usage.step_count == 1
    first, _, again = engine.requests
    assert len(again["messages"]) < len(first["messages"])
    assert again["messages"][-1] == first["messages"][-1]


def test_compaction_waits_until_the_window_is_full(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    """Not at half of it, not for tokens of thinking that are never sent again, and not once more right after."""
    engine.requests.clear()
    thinking = {
        "prompt_tokens": 2_000,
        "completion_tokens": 1_900,
        "total_tokens": 3_900,
        "completion_tokens_details": {"reasoning_tokens": 1_800},
    }
    engine.script(full("a", 2_400), full("b", 3_600), text("c", usage=thinking))
    for _ in range(3):
        answer = client.agents.messages.create(talker.id, input="more", include_compaction_messages=True)
        assert kinds(answer.messages) == ["assistant_message"]
    assert len(engine.requests) == 3


def test_an_unknown_window_is_not_taken_for_a_small_one(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    """The provider does not say how long its model's context is: only its refusal does."""
    agent = new_agent()
    talk(client, agent.id, 2)
    engine.script(full("fine", 100_000))
    answer = client.agents.messages.create(agent.id, input="more", include_compaction_messages=True)
    assert kinds(answer.messages) == ["assistant_message"]
    engine.script(OVERFLOW, text("the notes"), text("the answer"))
    answer = client.agents.messages.create(agent.id, input="more", include_compaction_messages=True)
    assert kinds(answer.messages)[1] == "summary_message"


def test_a_system_prompt_that_does_not_fit_stops_the_run_and_says_so(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(context_window_limit=WINDOW, system="Never forget. " * 1_200)
    engine.script(OVERFLOW)
    said = refused(400, lambda: client.agents.messages.create(agent.id, input="hi"))
    assert "system prompt" in said and str(WINDOW) in said
    engine.script(OVERFLOW)
    body = {"input": "hi", "streaming": True, "include_pings": False}
    stop, (kind, error), done = frames(post(f"{server.url}/v1/agents/{agent.id}/messages", body)[1])
    assert stop["stop_reason"] == "context_window_overflow_in_system_prompt" and done == "[DONE]"
    assert (kind, error["error_type"]) == ("error", "context_window_overflow_in_system_prompt")
    run = client.runs.list(agent_id=agent.id).items[0]
    assert (run.status, run.stop_reason) == ("failed", "context_window_overflow_in_system_prompt")
    client.agents.update(agent.id, system="Forget.")
    assert client.agents.messages.create(agent.id, input="hi").stop_reason.stop_reason == "end_turn"


def test_a_context_that_never_fits_is_given_up_after_three_compactions(
    client: Letta, engine: OpenAIDouble, talker: Any
) -> None:
    engine.requests.clear()
    engine.default = lambda body: OVERFLOW if "tools" in body or len(body["messages"]) > 2 else text("notes")
    try:
        said = refused(400, lambda: client.agents.messages.create(talker.id, input=f"more {LONG}"))
    finally:
        engine.default = text("ok")
    assert "context" in said
    assert len(engine.requests) <= 8
    assert client.agents.messages.create(talker.id, input="short").stop_reason.stop_reason == "end_turn"


# -- asked for


def test_an_agent_is_compacted_on_request(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    engine.script(text("the notes"))
    made = client.agents.messages.compact(talker.id)
    assert made.summary == "the notes" and made.num_messages_before == 11
    assert made.num_messages_after == len(client.agents.retrieve(talker.id).message_ids or []) < 11
    engine.script(text("shorter notes"))
    made = client.agents.messages.compact(talker.id, compaction_settings={"mode": "all", "clip_chars": 7})
    assert (made.num_messages_after, len(made.summary)) == (2, 7)


def test_there_is_a_second_path_to_the_same(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, talker: Any
) -> None:
    engine.script(text("the notes"))
    status, raw = post(f"{server.url}/v1/agents/{talker.id}/messages/compact", {})
    assert status == 200 and json.loads(raw)["summary"] == "the notes"


def test_nothing_but_a_summary_is_answered_without_a_model_call(
    client: Letta, engine: OpenAIDouble, talker: Any, new_agent: Callable[..., Any]
) -> None:
    engine.script(text("the notes"))
    client.agents.messages.compact(talker.id, compaction_settings={"mode": "all"})
    engine.requests.clear()
    again = client.agents.messages.compact(talker.id)
    assert (again.summary, again.num_messages_before, again.num_messages_after) == ("the notes", 2, 2)
    empty = client.agents.messages.compact(new_agent().id)
    assert (empty.summary, empty.num_messages_before, empty.num_messages_after) == ("", 1, 1)
    assert engine.requests == []


def test_a_compaction_that_would_not_shrink_is_refused(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(initial_message_sequence=[{"role": "user", "content": "hello"}])
    assert "not compacted" in refused(400, lambda: client.agents.messages.compact(agent.id))
    assert "mode" in refused(422, lambda: client.agents.messages.compact(agent.id, compaction_settings={"mode": "odd"}))  # type: ignore[typeddict-item]
    refused(404, lambda: client.agents.messages.compact("agent-00000000-0000-4000-8000-000000000000"))


def test_a_conversation_is_compacted_on_request(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(context_window_limit=WINDOW)
    conversation = client.conversations.create(agent_id=agent.id)
    for turn in range(4):
        list(client.conversations.messages.create(conversation.id, input=f"question {turn}"))
    engine.script(text("the notes"))
    made = client.conversations.messages.compact(conversation.id)
    assert (made.summary, made.num_messages_before) == ("the notes", 9)
    ids = client.conversations.retrieve(conversation.id).in_context_message_ids
    assert made.num_messages_after == len(ids)
    talk(client, agent.id, 3)
    engine.script(text("the agent's own"))
    made = client.conversations.messages.compact("default", agent_id=agent.id)
    assert made.summary == "the agent's own"
    status, raw = post(f"{server.url}/v1/conversations/default/compact", {})
    assert status == 422 and b"agent_id" in raw


# -- settings


def test_settings_come_back_as_they_were_set(client: Letta, new_agent: Callable[..., Any]) -> None:
    settings = {"mode": "all", "prompt": "Only names.", "clip_chars": 900, "model": "openai/gpt-test"}
    found = client.agents.retrieve(new_agent(compaction_settings=settings).id).compaction_settings
    assert found is not None
    assert (found.mode, found.prompt, found.clip_chars, found.model) == ("all", "Only names.", 900, "openai/gpt-test")
    assert (found.prompt_acknowledgement, found.sliding_window_percentage) == (False, 0.3)


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"mode": "odd"}, 422, "compaction_settings.mode"),
        ({"sliding_window_percentage": 0}, 422, "compaction_settings.sliding_window_percentage"),
        ({"clip_chars": 0}, 422, "compaction_settings.clip_chars"),
        ({"prompt": " "}, 422, "compaction_settings.prompt"),
        ({"model_settings": {"temperature": "hot"}}, 422, "compaction_settings.model_settings.temperature"),
        ({"model": "openai/nobody-has-this"}, 404, "compaction_settings.model"),
    ],
)
def test_wrong_settings_are_named(
    client: Letta, new_agent: Callable[..., Any], settings: dict[str, Any], status: int, said: str
) -> None:
    assert said in refused(status, lambda: new_agent(compaction_settings=settings))
    agent = new_agent()
    assert said in refused(status, lambda: client.agents.update(agent.id, compaction_settings=settings))  # type: ignore[arg-type]


@pytest.fixture
def two_models() -> Iterator[OpenAIDouble]:
    double = OpenAIDouble(("gpt-test", "gpt-4o-mini", "gpt-other"))
    yield double
    double.close()


def test_the_summary_is_written_by_the_providers_small_model_or_the_one_that_is_set(
    own_server: Callable[..., ServerProcess], two_models: OpenAIDouble
) -> None:
    server = own_server(OPENAI_BASE_URL=two_models.base_url)
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False, context_window_limit=WINDOW)
    for settings, model in ((None, "gpt-4o-mini"), ({"model": "openai/gpt-other"}, "gpt-other")):
        client.agents.update(agent.id, compaction_settings=settings)  # type: ignore[arg-type]
        talk(client, agent.id, 4)
        client.agents.messages.compact(agent.id)
        assert two_models.requests[-1]["model"] == model
    two_models.requests.clear()
    talk(client, agent.id, 4)
    two_models.script(failure(401), text("by the agent's own"))
    assert client.agents.messages.compact(agent.id).summary == "by the agent's own"
    assert [request["model"] for request in two_models.requests[-2:]] == ["gpt-other", "gpt-test"]


# -- what is on record


def test_the_call_for_the_summary_is_a_step_with_a_trace(client: Letta, engine: OpenAIDouble, talker: Any) -> None:
    engine.script(full("the answer"), text("the notes"))
    answer = client.agents.messages.create(talker.id, input="more")
    run = client.runs.list(agent_id=talker.id, limit=1).items[0]
    steps = client.runs.steps.list(run.id, order="asc").items
    assert [step.total_tokens for step in steps] == [3_900, 15]
    traces = [client.steps.trace.retrieve(step.id) for step in steps]
    assert [trace.call_type if trace else None for trace in traces] == ["agent_step", "summarization"]
    assert answer.usage.total_tokens == 3_915 and answer.usage.step_count == 1
    assert client.runs.usage.retrieve(run.id).total_tokens == 3_915
    listed = client.steps.messages.list(steps[1].id).items
    assert len(listed) == 1


def test_what_fills_the_window_adds_up(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(
        context_window_limit=WINDOW,
        include_base_tools=True,
        memory_blocks=[{"label": "human", "value": "Ada " * 20}],
        tool_rules=[{"type": "exit_loop", "tool_name": "memory_insert"}],
    )
    estimated = window_of(server, agent.id)
    assert estimated["token_count_source"] == "estimate"
    talk(client, agent.id, 4)
    engine.script(full("the answer", 3_700), text("the notes"))
    client.agents.messages.create(agent.id, input="more")
    found = window_of(server, agent.id)
    assert found["token_count_source"] == "provider"
    assert found["context_window_size_max"] == WINDOW and 0 < found["context_window_size_current"] < 3_700
    assert found["summary_memory"].endswith("the notes") and found["num_tokens_summary_memory"] > 0
    assert "Ada Ada" in found["core_memory"] and "memory_insert" in found["tool_usage_rules"]
    assert found["num_tokens_functions_definitions"] > 0 and len(found["functions_definitions"]) > 0
    assert found["num_messages"] == len(client.agents.retrieve(agent.id).message_ids or [])
    assert found["num_recall_memory"] > found["num_messages"]


def window_of(server: ServerProcess, agent_id: str) -> dict[str, Any]:
    status, raw = post(f"{server.url}/v1/agents/{agent_id}/context", b"", method="GET")
    assert status == 200, raw
    found = json.loads(raw)
    parts = [value for key, value in found.items() if key.startswith("num_tokens_")]
    assert sum(parts) == found["context_window_size_current"]
    return found


@pytest.mark.slow
def test_a_server_killed_while_it_compacts_after_the_last_step_answers_once(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False, context_window_limit=WINDOW)
    talk(client, agent.id, 4)
    engine.requests.clear()
    engine.script(full("the answer"), text("never", delay_s=30))
    run = client.agents.messages.create_async(agent_id=agent.id, input="more")
    while len(engine.requests) < 2:
        time.sleep(0.01)
    server.kill()
    server.start()
    assert ended(client, run.id) == "completed"
    assert client.runs.retrieve(run.id).stop_reason == "end_turn"
    said = [
        m.content
        for m in client.agents.messages.list(agent.id, order="asc").items
        if m.message_type == "assistant_message"
    ]
    assert said.count("the answer") == 1 and said[-1] == "the answer"
    assert len(engine.requests) == 2
    engine.script(full("next", 3_950), text("the notes"))
    answer = client.agents.messages.create(agent.id, input="and now", include_compaction_messages=True)
    assert kinds(answer.messages)[-1] == "summary_message"
