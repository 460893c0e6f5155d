"""Every step's trace is what its model was sent, though requests are kept as what is new in them."""

from collections.abc import Callable
from typing import Any

from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.test_approvals import approve, ask, payer

__all__ = ["payer"]


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


def test_steps_that_waited_for_approval_are_told_as_they_were_sent(
    client: Letta, engine: OpenAIDouble, payer: Any
) -> None:
    client.agents.update(agent_id=payer.id, system="Be careful with money. " * 100)
    seen = len(engine.requests)
    for at in range(3):
        ask(client, engine, payer, id=f"call_{at}")
        engine.script(text("Paid."))
        client.agents.messages.create(agent_id=payer.id, messages=approve(f"call_{at}"))
        engine.script(text("You are welcome."))
        client.agents.messages.create(agent_id=payer.id, input=f"Thanks for the payment number {at}")
    steps = list(client.steps.list(agent_id=payer.id, order="asc"))
    told: list[Any] = [client.steps.trace.retrieve(step.id) for step in steps]
    assert [trace.request_json for trace in told] == engine.requests[seen:]
    assert len(told) == 9
