"""Agents that work together, with the real SDK."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess

ASK = "send_message_to_agent_and_wait_for_reply"
TAGGED = "send_message_to_agents_matching_tags"
TELL = "send_message_to_agent_async"


def returns(response: Any) -> list[tuple[str, str]]:
    return [(m.status, m.tool_return) for m in response.messages if m.message_type == "tool_return_message"]


def test_the_multi_agent_tools_are_attached_where_they_are_wanted(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(extra_body={"include_multi_agent_tools": True})
    assert {tool.name for tool in agent.tools} == {ASK, TAGGED, TELL}
    assert {tool.tool_type for tool in agent.tools} == {"letta_multi_agent_core"}


def test_an_agent_asks_another_and_gets_its_answer(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    helper = new_agent(name="Helper")
    lead = new_agent(name="Lead", tools=[ASK])
    for question, answer in (("One?", "first"), ("Two?", "second")):
        engine.script(
            call(ASK, {"message": question, "other_agent_id": helper.id}), text(answer), text(f"It says {answer}")
        )
        response = client.agents.messages.create(lead.id, input="ask it")
        assert returns(response) == [("success", str({"agent_id": helper.id, "response": [answer]}))]
        assert response.messages[-1].content == f"It says {answer}"
    heard = [m for m in client.agents.messages.list(helper.id) if m.message_type == "system_message"][1:]
    assert [m.content.rpartition("] ")[2] for m in heard] == ["One?", "Two?"]
    runs = [run for run in client.runs.list(agent_id=helper.id)]
    assert [run.metadata["callers"] for run in runs] == [[lead.id], [lead.id]]


def test_an_agent_asks_all_with_a_tag(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    first, second = new_agent(tags=["crew-x"]), new_agent(tags=["crew-x"])
    lead = new_agent(tools=[TAGGED], tags=["crew-x"])
    engine.script(
        call(TAGGED, {"message": "Ready?", "match_all": ["crew-x"], "match_some": []}), text("aye"), text("aye")
    )
    (status, told), *_ = returns(client.agents.messages.create(lead.id, input="ask all"))
    assert status == "success"
    assert told == str([{"agent_id": agent.id, "response": ["aye"]} for agent in (first, second)])


@pytest.fixture
def raw(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{server.url}/v1") as http:
        yield http


@pytest.fixture
def new_group(raw: httpx.Client) -> Iterator[Callable[..., Any]]:
    made: list[str] = []

    def make(*agents: Any, **fields: Any) -> Any:
        body = {"agent_ids": [agent.id for agent in agents], "description": "a crew", **fields}
        response = raw.post("/groups/", json=body)
        assert response.status_code == 200, response.text
        made.append(response.json()["id"])
        return response.json()

    yield make
    for group_id in made:
        assert raw.delete(f"/groups/{group_id}").status_code in (200, 404)


def test_a_group_is_made_read_changed_listed_counted_and_deleted(
    client: Letta, raw: httpx.Client, new_agent: Callable[..., Any], new_group: Callable[..., Any]
) -> None:
    boss, one, two = new_agent(), new_agent(), new_agent()
    config = {"manager_type": "supervisor", "manager_agent_id": boss.id}
    before = raw.get("/groups/count").json()
    group = new_group(one, two, manager_config=config)
    assert (group["manager_type"], group["manager_agent_id"]) == ("supervisor", boss.id)
    assert (group["agent_ids"], group["description"]) == ([one.id, two.id], "a crew")
    assert raw.get(f"/groups/{group['id']}").json() == group
    assert raw.get("/groups/").json()[0] == group
    assert raw.get("/groups/", params={"manager_type": "dynamic"}).json() == []
    assert raw.get("/groups/count").json() == before + 1
    for agent in (boss, one, two):
        assert raw.get(f"/agents/{agent.id}/groups").json() == [group]
    managed = client.agents.retrieve(boss.id, include=["agent.managed_group", "agent.tools"])
    assert managed.managed_group is not None and managed.managed_group.id == group["id"]
    assert [tool.name for tool in managed.tools] == ["send_message_to_all_agents_in_group"]
    assert client.agents.retrieve(boss.id).managed_group is None
    change = {"agent_ids": [two.id], "manager_config": {"manager_type": "dynamic", "max_turns": 4}}
    changed = raw.patch(f"/groups/{group['id']}", json=change).json()
    assert (changed["manager_type"], changed["manager_agent_id"]) == ("dynamic", boss.id)
    assert (changed["agent_ids"], changed["max_turns"], changed["termination_token"]) == ([two.id], 4, "DONE!")
    assert [tool.name for tool in client.agents.tools.list(boss.id)] == ["choose_next_participant"]
    deleted = raw.delete(f"/groups/{group['id']}")
    assert deleted.json() == {"message": f"Group id={group['id']} successfully deleted"}
    assert list(client.agents.tools.list(boss.id)) == []
    assert raw.get(f"/groups/{group['id']}").status_code == 404


def test_a_group_that_cannot_be_is_refused_in_plain_words(raw: httpx.Client, new_agent: Callable[..., Any]) -> None:
    boss, one = new_agent(), new_agent()
    gone = boss.id[:-4] + "0000"
    led = {"manager_type": "supervisor", "manager_agent_id": boss.id}
    cases = [
        ({"agent_ids": [], "manager_config": led}, 422, "at least one member"),
        ({"agent_ids": [one.id, one.id], "manager_config": led}, 422, "named twice"),
        ({"agent_ids": [boss.id], "manager_config": led}, 422, "is not one of its members"),
        ({"agent_ids": [gone], "manager_config": led}, 404, gone),
        ({"agent_ids": [one.id], "manager_config": {"manager_type": "supervisor"}}, 422, "manager_agent_id"),
        ({"agent_ids": [one.id], "manager_config": {"manager_type": "swarm"}}, 422, "manager_type"),
    ]
    for body, status, words in cases:
        response = raw.post("/groups", json={"description": "x", **body})
        assert (response.status_code, words in response.text) == (status, True), response.text


def test_sending_to_the_supervisor_lets_the_group_work(
    client: Letta,
    raw: httpx.Client,
    engine: OpenAIDouble,
    new_agent: Callable[..., Any],
    new_group: Callable[..., Any],
) -> None:
    boss, one, two = new_agent(name="Boss"), new_agent(name="One"), new_agent(name="Two")
    shared = client.blocks.create(label="plan", value="none yet")
    config = {"manager_type": "round_robin", "manager_agent_id": boss.id}
    group = new_group(one, two, manager_config=config, shared_block_ids=[shared.id])
    for agent in (boss, one, two):
        assert [block.id for block in client.agents.blocks.list(agent.id)] == [shared.id]
    engine.script(
        call("send_message_to_all_agents_in_group", {"message": "Who?"}), text("me"), text("and me"), text("Both")
    )
    response = client.agents.messages.create(boss.id, input="ask them")
    assert returns(response) == [
        ("success", str([{"agent_id": one.id, "response": ["me"]}, {"agent_id": two.id, "response": ["and me"]}]))
    ]
    said = raw.get(f"/groups/{group['id']}/messages", params={"order": "asc"}).json()
    assert [m["content"] for m in said if m["message_type"] == "assistant_message"] == ["me", "and me"]
    assert "One: me" in next(m for m in reversed(said) if m["message_type"] == "system_message")["content"]
    assert raw.get(f"/groups/{group['id']}/messages").json()[0]["id"] == said[-1]["id"]
    assert raw.patch(f"/groups/{group['id']}/reset-messages").json() is None
    assert raw.get(f"/groups/{group['id']}/messages").json() == []
    client.blocks.delete(shared.id)


def test_a_group_works_while_its_manager_streams(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any], new_group: Callable[..., Any]
) -> None:
    boss, one = new_agent(name="Boss"), new_agent(name="One")
    new_group(one, manager_config={"manager_type": "supervisor", "manager_agent_id": boss.id})
    engine.script(call("send_message_to_all_agents_in_group", {"message": "Who?"}), text("me"), text("It is One."))
    stream = client.agents.messages.create(boss.id, input="ask", streaming=True, stream_tokens=True)
    heard = [event for event in stream if event.message_type != "ping"]
    spoken = "".join(event.content for event in heard if event.message_type == "assistant_message")
    (told,) = [event.tool_return for event in heard if event.message_type == "tool_return_message"]
    assert spoken == "It is One."
    assert told == str([{"agent_id": one.id, "response": ["me"]}])
    assert [event.message_type for event in heard[-2:]] == ["stop_reason", "usage_statistics"]


def test_sleeptime_is_switched_on_and_off_with_an_update(
    client: Letta, raw: httpx.Client, engine: OpenAIDouble
) -> None:
    agent = client.agents.create(
        model="openai/gpt-test", name="Nell", memory_blocks=[{"label": "human", "value": "Ada"}]
    )
    client.agents.update(agent.id, enable_sleeptime=True)
    group = client.agents.retrieve(agent.id, include=["agent.managed_group"]).managed_group
    assert group is not None and (group.manager_type, group.sleeptime_agent_frequency) == ("sleeptime", 5)
    (other,) = group.agent_ids
    for turn in range(4):
        assert client.agents.messages.create(agent.id, input=f"turn {turn}").usage.run_ids is None
    (rest,) = client.agents.messages.create(agent.id, input="the fifth").usage.run_ids or []
    assert finished(client, rest).agent_id == other
    client.agents.update(agent.id, enable_sleeptime=False)
    assert client.agents.retrieve(agent.id, include=["agent.managed_group"]).managed_group is None
    assert raw.get(f"/groups/{group.id}").status_code == raw.get(f"/agents/{other}").status_code == 404
    client.agents.delete(agent.id)


def test_an_agent_made_with_sleeptime_has_another_that_looks_after_its_memory(
    client: Letta, raw: httpx.Client, engine: OpenAIDouble
) -> None:
    agent = client.agents.create(
        name="Mona",
        model="openai/gpt-test",
        enable_sleeptime=True,
        memory_blocks=[{"label": "human", "value": "Ada"}],
    )
    group = agent.managed_group
    assert group is not None
    assert (group.manager_type, group.sleeptime_agent_frequency) == ("sleeptime", 5)
    (other_id,) = group.agent_ids
    other = client.agents.retrieve(other_id, include=["agent.blocks"])
    assert (other.name, other.agent_type) == ("Mona-sleeptime", "sleeptime_agent")
    assert [block.label for block in other.blocks] == ["human", "memory_persona"]
    assert other.blocks[0].id == agent.blocks[0].id
    runs: list[list[str] | None] = []
    for at in range(4):
        runs.append(client.agents.messages.create(agent.id, input=f"turn {at}").usage.run_ids)
    edit = {"label": "human", "new_string": "likes tea"}
    engine.script(text("noted"), call("memory_insert", edit), call("memory_finish_edits", {}))
    fifth = client.agents.messages.create(agent.id, input="I like tea").usage.run_ids
    assert runs == [None] * 4
    assert fifth is not None and len(fifth) == 1
    run = finished(client, fifth[0])
    assert (run.status, run.agent_id, run.background) == ("completed", other_id, True)
    assert client.agents.blocks.retrieve("human", agent_id=agent.id).value == "Ada\nlikes tea"
    client.agents.messages.create(agent.id, input="and?")
    assert "likes tea" in engine.requests[-1]["messages"][0]["content"]
    known = raw.get(f"/groups/{group.id}").json()
    assert known["turns_counter"] == 6 and known["last_processed_message_id"].startswith("message-")
    client.agents.delete(agent.id)
    assert raw.get(f"/groups/{group.id}").status_code == raw.get(f"/agents/{other_id}").status_code == 404


def test_a_sleeptime_run_survives_a_killed_server(
    engine: OpenAIDouble, own_server: Callable[..., ServerProcess]
) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", enable_sleeptime=True)
    group = agent.managed_group
    assert group is not None
    with httpx.Client(base_url=f"{server.url}/v1") as http:
        manager = {"manager_type": "sleeptime", "manager_agent_id": agent.id, "sleeptime_agent_frequency": 2}
        assert http.patch(f"/groups/{group.id}", json={"manager_config": manager}).status_code == 200
    client.agents.messages.create(agent.id, input="one")
    server.kill()
    server.start()
    engine.script(text("two it is"), text("slow", delay_s=30))
    (rest,) = client.agents.messages.create(agent.id, input="two").usage.run_ids or []
    while engine.turns:  # until the sleeptime agent's model is asked
        time.sleep(0.01)
    server.kill()
    engine.script(text("looked after"))
    server.start()
    assert finished(client, rest).status == "completed"
    heard = [m for m in client.agents.messages.list(group.agent_ids[0]) if m.message_type == "user_message"]
    assert len(heard) == 1
    assert "user: one" in heard[0].content and "user: two" in heard[0].content


def finished(client: Letta, run_id: str) -> Any:
    deadline = time.monotonic() + 30
    while (run := client.runs.retrieve(run_id)).status in ("created", "running"):
        assert time.monotonic() < deadline, f"run {run_id} does not end"
        time.sleep(0.02)
    return run
