"""Every step's trace is what its model was sent, though requests are kept as what is new in them."""

from collections.abc import Callable
from typing import Any

from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text


def test_each_request_of_a_growing_conversation_is_told_as_it_was_sent(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(tools=["memory_insert"], memory_blocks=[{"label": "human", "value": "Ada. " * 300}])
    seen = len(engine.requests)
    for at in range(6):
        if at == 3:  # moves all that follows in the prompt
            engine.script(call("memory_insert", {"label": "human", "new_string": "Likes tea."}))
        engine.script(text(f"Answer {at}: {'so it is ' * 20}"))
        client.agents.messages.create(agent_id=agent.id, input=f"Question {at}: {'is it so ' * 20}")
    sent = engine.requests[seen:]
    steps = list(client.steps.list(agent_id=agent.id, order="asc"))
    told: list[Any] = [client.steps.trace.retrieve(step.id) for step in steps]
    assert [trace.request_json for trace in told] == sent
    assert len(sent) == 7 and sent[-1]["messages"] != sent[-2]["messages"]


def test_of_large_requests_both_ends_are_told(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    for at in range(4):
        engine.script(text(f"Answer {at}."))
        client.agents.messages.create(agent_id=agent.id, input=f"Question {at}: {'is it so ' * 900}")
    steps = list(client.steps.list(agent_id=agent.id, order="asc"))
    told: list[Any] = [client.steps.trace.retrieve(step.id) for step in steps]
    cut = [trace.request_json for trace in told[2:]]
    assert all(each["truncated"] for each in cut)
    for at, each in enumerate(cut, 2):
        assert '"messages"' in each["head"]
        assert f"Question {at}: " in each["tail"]
        assert len(each["head"]) + len(each["tail"]) == 16_384 < each["bytes"]
