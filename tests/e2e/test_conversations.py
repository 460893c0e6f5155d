"""Conversations with the real SDK: making, finding, changing, forking and deleting them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import post

NO_MESSAGE = "message-00000000-0000-4000-8000-000000000000"
NO_CONVERSATION = "conv-00000000-0000-4000-8000-000000000000"


def say(client: Letta, conversation_id: str, said: str, **more: Any) -> list[Any]:
    """Send with the SDK, which streams; the events."""
    return list(client.conversations.messages.create(conversation_id, input=said, **more))


def history(client: Letta, conversation_id: str) -> list[str]:
    listed = client.conversations.messages.list(conversation_id, order="asc").items
    return [m.content for m in listed if m.message_type in ("user_message", "assistant_message")]


def ids(page: Any) -> list[str]:
    return [item.id for item in page]


def refused(status: int, work: Callable[[], Any]) -> str:
    """What the body of the refusal says."""
    with pytest.raises(APIStatusError) as error:
        work()
    assert error.value.status_code == status, error.value.body
    return str(error.value.body)


def test_a_conversation_begins_with_its_own_system_message(client: Letta, new_agent: Callable[..., Any]) -> None:
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
    assert f"CONVERSATION_ID: {made.id}" in system.content and "Ada" in system.content
    assert found.in_context_message_ids[0] not in client.agents.retrieve(agent.id).message_ids


def test_what_cannot_be_made_says_why(client: Letta, server: ServerProcess, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(memory_blocks=[{"label": "human", "value": "Ada"}])
    create = client.conversations.create
    assert "Agent not found" in refused(404, lambda: create(agent_id="agent-00000000-0000-4000-8000-000000000000"))
    assert "agent_id" in refused(422, lambda: create(agent_id="bob"))
    assert "nobody" in refused(404, lambda: create(agent_id=agent.id, model="nobody/nothing"))
    refused(422, lambda: create(agent_id=agent.id, context_window_limit=0))
    isolated = {"isolated_block_labels": ["human", "cat"]}
    said = refused(400, lambda: create(agent_id=agent.id, extra_body=isolated))
    assert "'cat'" in said and "human" in said
    status, raw = post(f"{server.url}/v1/conversations/", {})
    assert status == 422 and b"agent_id" in raw
    assert list(client.conversations.list(agent_id=agent.id)) == []


def test_listings_in_every_order_follow_their_cursor(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    a, b, c = (client.conversations.create(agent_id=agent.id, summary=f"talk {n}").id for n in range(3))
    say(client, b, "one")
    say(client, a, "two")

    def listed(**wanted: Any) -> list[str]:
        return ids(client.conversations.list(agent_id=agent.id, **wanted))

    assert listed() == [c, b, a]
    assert listed(order="asc") == [a, b, c]
    assert listed(order_by="last_message_at") == [a, b, c]
    assert listed(order_by="last_run_completion") == [a, b, c]
    assert listed(order_by="last_message_at", order="asc") == [c, b, a]
    for order in ("asc", "desc"):
        for order_by in ("created_at", "last_message_at", "last_run_completion"):
            whole = listed(order=order, order_by=order_by)
            paged: list[str] = []
            while page := listed(order=order, order_by=order_by, limit=1, **({"after": paged[-1]} if paged else {})):
                paged += page
            assert paged == whole
    assert ids(client.conversations.list())[:3] == [c, b, a]
    assert agent.id not in ids(client.conversations.list())
    refused(404, lambda: listed(after=NO_CONVERSATION))
    refused(422, lambda: listed(order_by="colour"))


def test_listings_search_summaries_and_tell_archived_and_hidden_ones_apart(
    client: Letta, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    tea, rain = (client.conversations.create(agent_id=agent.id, summary=text).id for text in ("On Tea 100%", "rain"))
    hidden = client.conversations.create(agent_id=agent.id, summary="tea too", hidden=True).id

    def listed(**wanted: Any) -> list[str]:
        return ids(client.conversations.list(agent_id=agent.id, **wanted))

    assert listed(summary_search="tea") == [tea]
    assert listed(summary_search="100%") == [tea]
    assert listed(summary_search="%") == [tea]
    assert listed(summary_search="snow") == []
    assert listed() == [rain, tea]
    assert listed(extra_query={"include_hidden": True}) == [hidden, rain, tea]
    assert client.conversations.retrieve(hidden).id == hidden
    archived = client.conversations.update(tea, archived=True)
    assert archived.archived is True and archived.archived_at is not None
    assert (listed(), listed(archive_status="archived"), listed(archive_status="all")) == ([rain], [tea], [rain, tea])
    again = client.conversations.update(tea, archived=False)
    assert again.archived is False and again.archived_at is None


def test_an_update_changes_what_it_names_and_null_gives_it_back(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    made = client.conversations.create(agent_id=agent.id, summary="first", description="kept")
    changed = client.conversations.update(
        made.id,
        summary="second",
        model="openai/gpt-test",
        model_settings={"provider_type": "openai", "temperature": 0.4},
        context_window_limit=5000,
        last_message_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    assert (changed.summary, changed.description, changed.model) == ("second", "kept", "openai/gpt-test")
    assert changed.api_model_settings is not None and changed.api_model_settings.temperature == 0.4
    assert changed.context_window_limit == 5000
    assert changed.last_message_at == datetime(2026, 3, 1, tzinfo=UTC)
    assert changed.updated_at is not None and made.updated_at is not None and changed.updated_at > made.updated_at
    cleared = client.conversations.update(
        made.id, model=None, model_settings=None, context_window_limit=None, summary=None
    )
    assert (cleared.summary, cleared.model, cleared.context_window_limit) == (None, None, None)
    assert cleared.api_model_settings is None and cleared.description == "kept"
    refused(404, lambda: client.conversations.update(made.id, model="nobody/nothing"))
    refused(422, lambda: client.conversations.update(made.id, model_settings={"temperature": "hot"}))  # type: ignore[typeddict-item]
    refused(404, lambda: client.conversations.update(NO_CONVERSATION, summary="x"))


@pytest.fixture
def two_models(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble, monkeypatch: pytest.MonkeyPatch
) -> ServerProcess:
    """A server whose provider has gpt-test and gpt-own."""
    monkeypatch.setattr(engine, "models", ("gpt-test", "gpt-own"))
    return own_server()


def test_a_conversations_model_beats_the_agents_and_the_requests_beats_both(
    two_models: ServerProcess, engine: OpenAIDouble
) -> None:
    client = Letta(base_url=two_models.url, max_retries=0)
    agent = client.agents.create(
        model="openai/gpt-test",
        model_settings={"provider_type": "openai", "temperature": 0.1, "max_output_tokens": 77},
    )
    made = client.conversations.create(
        agent_id=agent.id, model="openai/gpt-own", model_settings={"provider_type": "openai", "temperature": 0.9}
    )
    say(client, made.id, "Hi")
    say(client, made.id, "Hi", override_model="openai/gpt-test")
    say(client, "default", "Hi", agent_id=agent.id)
    asked = [(body["model"], body["temperature"]) for body in engine.requests]
    assert asked == [("gpt-own", 0.9), ("gpt-test", 0.9), ("gpt-test", 0.1)]
    limits = [body.get("max_tokens") or body.get("max_completion_tokens") for body in engine.requests]
    assert limits == [77, 77, 77]
    assert client.agents.retrieve(agent.id).model == "openai/gpt-test"


def test_a_deleted_conversation_is_gone(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    made, kept = (client.conversations.create(agent_id=agent.id).id for _ in range(2))
    say(client, made, "a secret")
    say(client, kept, "known")
    assert client.conversations.delete(made) is None
    refused(404, lambda: client.conversations.retrieve(made))
    refused(404, lambda: client.conversations.update(made, summary="x"))
    refused(404, lambda: client.conversations.delete(made))
    refused(404, lambda: client.conversations.fork(made))
    refused(404, lambda: say(client, made, "Hi"))
    assert ids(client.conversations.list(agent_id=agent.id)) == [kept]
    said = [getattr(m, "content", "") for m in client.agents.messages.list(agent_id=agent.id).items]
    assert "known" in said and "a secret" not in said
    everywhere = client.agents.messages.list(agent_id=agent.id, order="asc")
    assert "a secret" not in [getattr(m, "content", "") for m in everywhere.items]


def test_an_agents_own_history_is_no_conversation_to_change(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    assert client.conversations.retrieve(agent.id).agent_id == agent.id
    for work in (client.conversations.delete, client.conversations.update):
        assert "agent" in refused(400, lambda work=work: work(agent.id))
    refused(422, lambda: client.conversations.retrieve("bob"))


def test_deleting_a_conversation_ends_its_run(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    made = client.conversations.create(agent_id=agent.id).id
    engine.script(text("never", delay_s=30))
    # a stream left to the garbage collector is closed wherever that runs, and the client's pool may be locked there
    with client.conversations.messages.create(made, input="Hi", background=True) as stream:
        run_id = next(iter(stream)).run_id
    client.conversations.delete(made)
    assert client.runs.retrieve(str(run_id)).status == "cancelled"


def test_a_fork_shares_what_was_said_and_goes_its_own_way(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    source = client.conversations.create(agent_id=agent.id, summary="talk").id
    engine.script(text("one"), text("two"), text("three"))
    say(client, source, "first")
    forked = client.conversations.fork(source)
    assert forked.id != source and (forked.agent_id, forked.summary) == (agent.id, "talk")
    before = client.conversations.retrieve(source).in_context_message_ids
    shared = client.conversations.retrieve(forked.id).in_context_message_ids
    assert before is not None and shared is not None
    assert shared[1:] == before[1:] and shared[0] != before[0]
    assert forked.id in client.messages.retrieve(shared[0])[0].content
    say(client, forked.id, "in the fork")
    say(client, source, "in the source")
    assert history(client, forked.id) == ["first", "one", "in the fork", "two"]
    assert history(client, source) == ["first", "one", "in the source", "three"]
    sent = [[m["content"] for m in body["messages"][1:]] for body in engine.requests[-2:]]
    assert sent == [["first", "one", "in the fork"], ["first", "one", "in the source"]]


def test_a_fork_ends_at_the_message_it_is_made_from(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    source = client.conversations.create(agent_id=agent.id).id
    for n in range(3):
        engine.script(text(f"answer {n}"))
        say(client, source, f"question {n}")
    listed = client.conversations.messages.list(source, order="asc").items
    middle = next(m for m in listed if getattr(m, "content", "") == "answer 0")
    forked = client.conversations.fork(source, message_id=middle.id, hidden=True)
    assert history(client, forked.id) == ["question 0", "answer 0"]
    assert forked.id not in ids(client.conversations.list(agent_id=agent.id))
    assert NO_MESSAGE in refused(404, lambda: client.conversations.fork(source, message_id=NO_MESSAGE))


def test_a_forks_messages_page_as_any_others(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.default = lambda body: text("re " + body["messages"][-1]["content"])
    for n in range(3):
        client.agents.messages.create(agent_id=agent.id, input=f"m{n}")
    once = client.conversations.fork("default", agent_id=agent.id).id
    say(client, once, "m3")
    twice = client.conversations.fork(once).id
    say(client, twice, "m4")
    engine.default = text("ok")
    whole = ids(client.conversations.messages.list(twice, order="asc", limit=100).items)
    assert len(whole) == len(set(whole)) == 11
    said = history(client, twice)
    assert said == [line for n in range(5) for line in (f"m{n}", f"re m{n}")]
    first = client.conversations.messages.list(twice, order="asc", limit=100).items[0]
    assert first.message_type == "system_message" and twice in first.content
    for order in ("asc", "desc"):
        paged = [m.id for m in client.conversations.messages.list(twice, order=order, limit=2)]
        assert paged == (whole if order == "asc" else whole[::-1])
    context = client.conversations.retrieve(twice).in_context_message_ids
    assert context == whole


def test_a_fork_of_the_agents_own_history(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    engine.script(text("one"))
    client.agents.messages.create(agent_id=agent.id, input="first")
    for forked in (client.conversations.fork("default", agent_id=agent.id), client.conversations.fork(agent.id)):
        assert history(client, forked.id) == ["first", "one"]
    assert "agent_id" in refused(422, lambda: client.conversations.fork("default"))


def test_a_reset_leaves_conversations_and_forks_as_they_are(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("one"), text("two"), text("three"))
    client.agents.messages.create(agent_id=agent.id, input="first")
    forked = client.conversations.fork(agent.id).id
    beside = client.conversations.create(agent_id=agent.id).id
    say(client, beside, "beside")
    client.agents.messages.reset(agent_id=agent.id)
    assert history(client, agent.id) == []
    assert history(client, beside) == ["beside", "two"]
    assert history(client, forked) == ["first", "one"]
    say(client, forked, "go on")
    assert [m["content"] for m in engine.requests[-1]["messages"][1:]] == ["first", "one", "go on"]
    assert history(client, forked) == ["first", "one", "go on", "three"]


def test_an_agents_conversations_go_with_it(client: Letta, engine: OpenAIDouble) -> None:
    agent = client.agents.create(
        model="openai/gpt-test", include_base_tools=False, memory_blocks=[{"label": "human", "value": "Ada"}]
    )
    made = client.conversations.create(agent_id=agent.id, extra_body={"isolated_block_labels": ["human"]})
    copy_id = made.isolated_block_ids[0]  # type: ignore[attr-defined]
    say(client, made.id, "Hi")
    forked = client.conversations.fork(made.id)
    client.agents.delete(agent.id)
    for gone in (made.id, forked.id):
        refused(404, lambda gone=gone: client.conversations.retrieve(gone))
    refused(404, lambda: client.blocks.retrieve(copy_id))


def test_isolated_blocks_are_the_conversations_own(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(
        memory_blocks=[{"label": "human", "value": "Ada"}, {"label": "persona", "value": "Kind"}],
        tools=["memory_insert"],
    )
    made = client.conversations.create(agent_id=agent.id, extra_body={"isolated_block_labels": ["human"]})
    (copy_id,) = made.isolated_block_ids  # type: ignore[attr-defined]
    original = client.agents.blocks.retrieve("human", agent_id=agent.id)
    assert copy_id != original.id and client.blocks.retrieve(copy_id).value == "Ada"
    engine.script(call("memory_insert", {"label": "human", "new_string": "likes tea"}), text("ok"), text("ok"))
    say(client, made.id, "I like tea")
    assert client.blocks.retrieve(copy_id).value == "Ada\nlikes tea"
    assert client.agents.blocks.retrieve("human", agent_id=agent.id).value == "Ada"
    client.agents.blocks.update("human", agent_id=agent.id, value="Bob")
    client.agents.blocks.update("persona", agent_id=agent.id, value="Curt")
    say(client, made.id, "and?")
    prompt = engine.requests[-1]["messages"][0]["content"]
    assert "likes tea" in prompt and "Curt" in prompt and "Bob" not in prompt
    client.blocks.update(copy_id, value="Eve")
    assert "Eve" in client.conversations.recompile(made.id)
    client.conversations.delete(made.id)
    refused(404, lambda: client.blocks.retrieve(copy_id))
    assert client.agents.blocks.retrieve("human", agent_id=agent.id).value == "Bob"


def test_recompiling_renews_the_conversations_own_prompt(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(memory_blocks=[{"label": "human", "value": "Ada"}])
    made = client.conversations.create(agent_id=agent.id)
    system_id = client.conversations.retrieve(made.id).in_context_message_ids[0]  # type: ignore[index]
    client.agents.blocks.update("human", agent_id=agent.id, value="Bob")
    dry = client.conversations.recompile(made.id, dry_run=True)
    assert "Bob" in dry and made.id in dry
    assert "Ada" in client.messages.retrieve(system_id)[0].content
    assert "Bob" in client.conversations.recompile(made.id)
    assert "Bob" in client.messages.retrieve(system_id)[0].content
    own = client.conversations.recompile("default", agent_id=agent.id)
    assert "CONVERSATION_ID: default" in own
    refused(404, lambda: client.conversations.recompile(NO_CONVERSATION))


def test_conversations_outlive_the_server(two_models: ServerProcess, engine: OpenAIDouble) -> None:
    server = two_models
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(
        model="openai/gpt-test", include_base_tools=False, memory_blocks=[{"label": "human", "value": "Ada"}]
    )
    made = client.conversations.create(
        agent_id=agent.id, model="openai/gpt-own", extra_body={"isolated_block_labels": ["human"]}
    )
    engine.script(text("one"))
    say(client, made.id, "first")
    forked = client.conversations.fork(made.id).id
    server.kill()
    server.start()
    for conversation_id in (made.id, forked):
        say(client, conversation_id, "again")
        asked = engine.requests[-1]
        assert asked["model"] == "gpt-own"
        assert [m["content"] for m in asked["messages"][1:]] == ["first", "one", "again"]
