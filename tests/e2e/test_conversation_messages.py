"""What is said in conversations, with the real SDK: sending, paging, taking streams up again, cancelling, running at once."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_folder
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import frames, post
from tests.e2e.test_conversations import NO_CONVERSATION, NO_MESSAGE, history, ids, refused, say


def kinds(events: Any) -> list[str]:
    return [event.message_type for event in events]


def conversation(client: Letta, agent: Any, **fields: Any) -> str:
    return client.conversations.create(agent_id=agent.id, **fields).id


@pytest.fixture
def gate(engine: OpenAIDouble) -> Iterator[threading.Event]:
    """The model answers nobody until it is set."""
    engine.gate = threading.Event()
    yield engine.gate
    engine.gate.set()


def asked(engine: OpenAIDouble, count: int) -> None:
    """Wait until the model was asked so often."""
    deadline = time.monotonic() + 20
    while len(engine.requests) < count:
        assert time.monotonic() < deadline, f"{len(engine.requests)} of {count} requests reached the model"
        time.sleep(0.01)


def test_a_message_is_streamed_unless_told_otherwise_and_its_run_ends(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    made = conversation(client, new_agent())
    engine.script(text("Hello there."), text("Whole."))
    assert kinds(say(client, made, "Hi")) == ["ping", "assistant_message", "stop_reason", "usage_statistics"]
    status, raw = post(f"{server.url}/v1/conversations/{made}/messages", {"input": "Again", "streaming": False})
    assert status == 200
    answer = json.loads(raw)
    assert [message["content"] for message in answer["messages"]] == ["Whole."]
    assert answer["stop_reason"]["stop_reason"] == "end_turn" and answer["usage"]["step_count"] == 1
    assert history(client, made) == ["Hi", "Hello there.", "Again", "Whole."]
    runs = client.runs.list(conversation_id=made).items
    assert [(run.status, run.conversation_id, run.stop_reason) for run in runs] == [("completed", made, "end_turn")] * 2
    assert client.conversations.retrieve(made).last_message_at is not None


def test_what_is_only_for_streams_is_refused_without_one(
    client: Letta, server: ServerProcess, new_agent: Callable[..., Any]
) -> None:
    made = conversation(client, new_agent())
    for field in ({"stream_tokens": True}, {"include_pings": False}, {"background": True}):
        body = {"input": "Hi", "streaming": False, **field}
        status, raw = post(f"{server.url}/v1/conversations/{made}/messages", body)
        assert status == 422 and next(iter(field)).encode() in raw
    refused(404, lambda: say(client, NO_CONVERSATION, "Hi"))
    refused(422, lambda: say(client, "bob", "Hi"))
    refused(422, lambda: say(client, "default", "Hi"))


def test_auto_paging_yields_every_message_once_in_either_order(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    made = conversation(client, new_agent())
    for n in range(4):
        engine.script(text(f"answer {n}"))
        say(client, made, f"question {n}")
    oldest_first = [m.id for m in client.conversations.messages.list(made, order="asc", limit=2)]
    newest_first = [m.id for m in client.conversations.messages.list(made, limit=2)]
    assert len(set(oldest_first)) == len(oldest_first) == 9
    assert newest_first == oldest_first[::-1]


def test_pages_before_a_message_are_older_and_unknown_cursors_are_ignored(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    made = conversation(client, new_agent())
    for n in range(3):
        say(client, made, f"question {n}")
    whole = ids(client.conversations.messages.list(made, order="asc").items)
    page = client.conversations.messages.list(made, before=whole[4], limit=2)
    assert ids(page.items) == [whole[3], whole[2]]
    page = client.conversations.messages.list(made, before=whole[4], limit=2, order="asc")
    assert ids(page.items) == [whole[0], whole[1]]
    page = client.conversations.messages.list(made, after=whole[4], order="asc")
    assert ids(page.items) == whole[5:]
    assert ids(client.conversations.messages.list(made, after=NO_MESSAGE, order="asc").items) == whole
    refused(404, lambda: client.conversations.messages.list(NO_CONVERSATION))
    refused(422, lambda: client.conversations.messages.list(made, limit=0))


def test_newest_first_keeps_the_parts_of_a_message_in_order(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tools=["memory_insert"], memory_blocks=[{"label": "human", "value": "Ada"}])
    made = conversation(client, agent)
    engine.script(call("memory_insert", {"label": "human", "new_string": "x"}, content="Noting."), text("Done."))
    say(client, made, "Hi")
    listed = client.conversations.messages.list(made).items
    assert kinds(listed) == [
        "assistant_message",
        "tool_return_message",
        "assistant_message",
        "tool_call_message",
        "user_message",
        "system_message",
    ]
    only = client.conversations.messages.list(made, include_return_message_types=["tool_return_message"]).items
    assert kinds(only) == ["tool_return_message"]


def test_an_agents_messages_are_those_of_all_its_conversations_unless_one_is_named(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent, other = new_agent(), new_agent()
    made = conversation(client, agent)
    say(client, made, "in the conversation")
    client.agents.messages.create(agent_id=agent.id, input="directly")

    def said(**wanted: Any) -> list[str]:
        listed = client.agents.messages.list(agent_id=agent.id, **wanted).items
        return [m.content for m in listed if m.message_type == "user_message"]

    assert said() == ["in the conversation", "directly"]
    assert said(conversation_id="default") == ["directly"]
    assert said(conversation_id=made) == ["in the conversation"]
    everywhere = client.messages.list(conversation_id=made)
    assert [m.content for m in everywhere if m.message_type == "user_message"] == ["in the conversation"]  # type: ignore[union-attr]
    assert client.agents.messages.list(agent_id=other.id, conversation_id=made).items == []
    direct = client.runs.list(agent_id=agent.id, conversation_id="default").items
    assert [run.conversation_id for run in direct] == [None]
    assert len(client.runs.list(agent_id=agent.id).items) == 2


@pytest.mark.parametrize("path", ["default", "agent"])
def test_default_mode_is_the_agents_own_history(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], path: str
) -> None:
    agent = new_agent()
    place, more = ("default", {"agent_id": agent.id}) if path == "default" else (agent.id, {})
    engine.script(text("one"), text("two"))
    assert kinds(say(client, place, "first", **more))[1] == "assistant_message"
    client.agents.messages.create(agent_id=agent.id, input="second")
    listed = client.conversations.messages.list(place, **more).items
    assert ids(listed) == ids(client.agents.messages.list(agent_id=agent.id).items)
    assert kinds(listed)[0] == "system_message"
    assert [m.content for m in listed[1:]] == ["first", "one", "second", "two"]
    newest = client.conversations.messages.list(place, limit=1, **more).items
    assert ids(newest) == [listed[-1].id]
    refused(404, lambda: client.conversations.messages.list(place, after=NO_MESSAGE, **more))
    assert list(client.conversations.list(agent_id=agent.id)) == []


def _post_busy(url: str, body: dict[str, Any]) -> tuple[int, str | None, dict[str, Any]]:
    """(status, x-should-retry, body)"""
    request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, None, {}
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("x-should-retry"), json.loads(error.read())


@pytest.mark.parametrize("direct", [False, True])
def test_a_busy_conversation_refuses_with_its_run_and_no_retry(
    client: Letta,
    server: ServerProcess,
    engine: OpenAIDouble,
    new_agent: Callable[..., Any],
    gate: threading.Event,
    direct: bool,
) -> None:
    agent = new_agent()
    place = "default" if direct else conversation(client, agent)
    more = {"agent_id": agent.id} if direct else {}
    stream = client.conversations.messages.create(place, input="first", **more)
    run_id = next(iter(stream)).run_id
    asked(engine, 1)
    for streaming in (True, False):
        url = f"{server.url}/v1/conversations/{place}/messages"
        status, retry, body = _post_busy(url, {"input": "second", "streaming": streaming, **more})
        assert (status, retry, body["run_id"]) == (409, "false", run_id)
        assert "currently being processed" in body["detail"]
    gate.set()
    assert kinds(stream)[-1] == "usage_statistics"
    # the moment the stream has ended, the next message is accepted
    for n in range(5):
        assert kinds(say(client, place, f"next {n}", **more))[-1] == "usage_statistics"


def test_the_same_otid_is_the_same_run_also_while_it_is_going_on(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], gate: threading.Event
) -> None:
    made, other = (conversation(client, agent) for agent in [new_agent()] * 2)
    message: Any = {"role": "user", "content": "Hi", "otid": "otid-of-a-conversation"}
    stream = client.conversations.messages.create(made, messages=[message])
    run_id = next(iter(stream)).run_id
    asked(engine, 1)
    again = client.conversations.messages.create(made, messages=[message])
    gate.set()
    assert {getattr(event, "run_id", None) for event in again} - {None} == {run_id}
    assert kinds(stream)[-1] == "usage_statistics"
    assert len(engine.requests) == 1
    list(client.conversations.messages.create(other, messages=[message]))
    assert len(engine.requests) == 2


def test_conversations_of_one_agent_run_at_once_and_every_memory_edit_survives(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], gate: threading.Event
) -> None:
    agent = new_agent(tools=["memory_insert"], memory_blocks=[{"label": "human", "value": "Ada"}])
    places = [conversation(client, agent) for _ in range(3)]

    def turn(body: dict[str, Any]) -> dict[str, Any]:
        last = body["messages"][-1]
        if last["role"] == "tool":
            return text("noted")
        return call("memory_insert", {"label": "human", "new_string": last["content"]})

    engine.default = turn
    threads = [
        threading.Thread(target=say, args=(client, place, f"fact {n}"), daemon=True) for n, place in enumerate(places)
    ]
    threads.append(
        threading.Thread(target=lambda: client.agents.messages.create(agent_id=agent.id, input="fact 3"), daemon=True)
    )
    for thread in threads:
        thread.start()
    asked(engine, 4)  # all four are with the model before it answers anyone
    gate.set()
    for thread in threads:
        thread.join(30)
    engine.default = text("ok")
    value = client.agents.blocks.retrieve("human", agent_id=agent.id).value
    assert sorted(value.split("\n")) == ["Ada", "fact 0", "fact 1", "fact 2", "fact 3"]
    for n, place in enumerate(places):
        assert history(client, place) == [f"fact {n}", "noted"]


def test_a_stream_is_taken_up_again_by_run_or_otid_from_any_frame(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    made, other = (conversation(client, agent) for agent in [new_agent()] * 2)
    engine.script(text("abcdefgh", pieces=8))
    url = f"{server.url}/v1/conversations/{made}"
    body = {
        "messages": [{"role": "user", "content": "Hi", "otid": "otid-1"}],
        "stream_tokens": True,
        "background": True,
    }
    _, raw = post(f"{url}/messages", body)
    whole = frames(raw)
    run_id = whole[0]["run_id"]
    assert [frame["seq_id"] for frame in whole if isinstance(frame, dict) and "seq_id" in frame][:3] == [1, 2, 3]
    for named in ({"run_id": run_id}, {"otid": "otid-1"}):
        for after in (0, 1, 5, len(whole) - 1):
            _, again = post(f"{url}/stream", {**named, "starting_after": after})
            assert frames(again) == whole[after:]
    assert kinds(client.conversations.messages.stream(made, run_id=run_id))[-1] == "usage_statistics"
    status, raw = post(f"{url}/stream", {})
    assert status == 400 and b"No active runs" in raw
    assert post(f"{url}/stream", {"otid": "nobody"})[0] == 404
    assert post(f"{url}/stream", {"run_id": "run-00000000-0000-4000-8000-000000000000"})[0] == 404
    assert post(f"{server.url}/v1/conversations/{other}/stream", {"run_id": run_id})[0] == 404
    assert post(f"{server.url}/v1/conversations/{other}/stream", {"otid": "otid-1"})[0] == 404
    assert post(f"{server.url}/v1/conversations/{NO_CONVERSATION}/stream", {})[0] == 404


def test_another_client_can_follow_what_is_going_on_in_a_conversation(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], gate: threading.Event
) -> None:
    agent = new_agent()
    for place, more in ((conversation(client, agent), {}), ("default", {"agent_id": agent.id})):
        gate.clear()
        engine.requests.clear()
        engine.script(text("for all to see"))
        mine = client.conversations.messages.create(place, input="Hi", **more)
        asked(engine, 1)
        theirs = client.conversations.messages.stream(place, **more)
        gate.set()
        seen = [
            [(event.message_type, event.id) for event in s if event.message_type == "assistant_message"]
            for s in (mine, theirs)
        ]
        assert len(seen[0]) == 1 and seen[0] == seen[1]


def test_an_otid_may_be_followed_before_its_message_arrives(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    made = conversation(client, new_agent())
    seen: list[str] = []
    follower = threading.Thread(
        target=lambda: seen.extend(kinds(client.conversations.messages.stream(made, otid="early"))), daemon=True
    )
    follower.start()
    time.sleep(0.2)
    message: Any = {"role": "user", "content": "Hi", "otid": "early"}
    list(client.conversations.messages.create(made, messages=[message]))
    follower.join(20)
    assert seen == ["ping", "assistant_message", "stop_reason", "usage_statistics"]


def test_cancelling_ends_only_the_conversations_own_runs(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], gate: threading.Event
) -> None:
    agent = new_agent()
    made, beside = conversation(client, agent), conversation(client, agent)
    streams = [client.conversations.messages.create(place, input="Hi") for place in (made, beside)]
    run_ids = [next(iter(stream)).run_id for stream in streams]
    asked(engine, 2)
    assert client.conversations.cancel(made) == {run_ids[0]: "cancelled"}
    assert client.runs.retrieve(str(run_ids[0])).status == "cancelled"
    assert client.runs.retrieve(str(run_ids[1])).status == "running"
    assert kinds(streams[0]) == ["stop_reason"]
    gate.set()
    assert kinds(streams[1])[-1] == "usage_statistics"
    assert kinds(say(client, made, "And now?"))[-1] == "usage_statistics"
    assert "no active runs" in refused(409, lambda: client.conversations.cancel(made))
    refused(404, lambda: client.conversations.cancel(NO_CONVERSATION))
    refused(409, lambda: client.conversations.cancel("default", agent_id=agent.id))


def test_a_search_of_the_agent_finds_what_was_said_in_any_of_its_conversations(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tools=["conversation_search"])
    kept, deleted = conversation(client, agent), conversation(client, agent)
    say(client, kept, "the zebra is striped")
    say(client, deleted, "the zebra is gone")
    client.conversations.delete(deleted)
    engine.script(call("conversation_search", {"query": "zebra"}), text("ok"))
    answer = client.agents.messages.create(agent_id=agent.id, input="What of it?")
    found = next(m.tool_return for m in answer.messages if m.message_type == "tool_return_message")
    assert "striped" in found and "gone" not in found


def test_a_conversation_that_waits_for_approval_can_be_forked_and_deleted(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tools=["memory_insert"], memory_blocks=[{"label": "human", "value": "Ada"}])
    client.agents.tools.update_approval("memory_insert", agent_id=agent.id, body_requires_approval=True)
    made = conversation(client, agent)
    engine.script(call("memory_insert", {"label": "human", "new_string": "x"}), text("free"))
    assert kinds(say(client, made, "Note x"))[-2:] == ["stop_reason", "usage_statistics"]
    (waiting,) = client.runs.list(conversation_id=made, stop_reason="requires_approval").items
    forked = client.conversations.fork(made)
    assert history(client, forked.id) == ["Note x"]
    say(client, forked.id, "go on")
    assert history(client, forked.id) == ["Note x", "go on", "free"]
    client.conversations.delete(made)
    assert client.runs.retrieve(waiting.id).status == "cancelled"
    assert client.agents.blocks.retrieve("human", agent_id=agent.id).value == "Ada"


@pytest.fixture
def token_server(tmp_path: Path) -> Iterator[tuple[ServerProcess, SGLangDouble]]:
    """A server on an engine that takes and gives token ids."""
    double = SGLangDouble(small_tokenizer(), tokenizer_path="tiny")
    env = {
        "SGLANG_BASE_URL": double.base_url,
        "PERDURE_TOKENIZERS": str(small_tokenizer_folder(tmp_path / "tokenizers")),
    }
    server = ServerProcess(tmp_path / "data", env)
    yield server, double
    server.stop()
    double.close()


@pytest.mark.parametrize("streaming", [True, False])
def test_token_ids_and_logprobs_come_from_conversations_too(
    token_server: tuple[ServerProcess, SGLangDouble], streaming: bool
) -> None:
    server, double = token_server
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="sglang/tiny", include_base_tools=False)
    made = conversation(client, agent)
    double.script("Hello.")
    body = {"input": "Hi", "streaming": streaming, "return_token_ids": True, "return_logprobs": True}
    status, raw = post(f"{server.url}/v1/conversations/{made}/messages", body)
    assert status == 200
    if streaming:
        found = next(f for f in frames(raw) if isinstance(f, dict) and f["message_type"] == "usage_statistics")
    else:
        found = json.loads(raw)
    (turn,) = [turn for turn in found["turns"] if turn["role"] == "assistant"]
    assert turn["output_ids"] and len(found["logprobs"]["content"]) == len(turn["output_ids"])
