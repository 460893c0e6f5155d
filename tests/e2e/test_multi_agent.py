"""Agents that work together, with the real SDK."""

from collections.abc import Callable
from typing import Any

from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text

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
