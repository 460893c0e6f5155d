"""When a changed memory block reaches the model: recompiled at the next request, or as an appended note."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text

BLOCKS = [{"label": "human", "value": "Name: Ada"}]


def prompts(engine: OpenAIDouble) -> list[list[dict[str, Any]]]:
    return [request["messages"] for request in engine.requests]


def test_a_persons_edit_is_in_the_next_prompt(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(memory_blocks=BLOCKS)
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    client.agents.blocks.update(agent_id=agent.id, block_label="human", value="Name: Grace")
    shown = client.agents.messages.list(agent_id=agent.id, order="asc").items[0].content
    assert "Grace" in shown
    client.agents.messages.create(agent_id=agent.id, input="Again")
    first, second = prompts(engine)
    assert "Ada" in first[0]["content"]
    assert "Grace" in second[0]["content"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]


def test_appended_notes_leave_the_prompt_as_it_was(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(memory_blocks=BLOCKS, include_base_tools=True, extra_body={"memory_rendering": "append"})
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    client.agents.blocks.update(agent_id=agent.id, block_label="human", value="Name: Grace")
    client.agents.messages.create(agent_id=agent.id, input="Again")
    client.agents.messages.create(agent_id=agent.id, input="And again")
    engine.script(call("memory_insert", {"label": "human", "new_string": "Likes tea"}), text("noted"))
    client.agents.messages.create(agent_id=agent.id, input="Remember tea")
    client.agents.messages.create(agent_id=agent.id, input="Last")
    seen = prompts(engine)
    for before, after in pairwise(seen):
        assert after[: len(before)] == before
    notes = [m for m in seen[-1][1:] if m["role"] == "system"]
    assert len(notes) == 1
    assert "Grace" in notes[0]["content"]


def test_what_did_not_change_keeps_the_prompt_byte_for_byte(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(memory_blocks=BLOCKS)
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    client.agents.update(agent_id=agent.id, description="another description")
    client.agents.messages.create(agent_id=agent.id, input="Again")
    first, second = prompts(engine)
    assert first[0] == second[0]
