"""Auto-paging of the real SDK: it ends, and gives every item once, in both orders, a few at a time."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, text

COUNT = 7


@pytest.fixture(scope="module")
def tag() -> str:
    return f"paging-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def agents(client: Letta, tag: str) -> Iterator[list[str]]:
    made = [
        client.agents.create(model="openai/gpt-test", tags=[tag, f"{tag}-{at}"], include_base_tools=False).id
        for at in range(COUNT)
    ]
    yield made
    for agent_id in made:
        client.agents.delete(agent_id)


def ids(items: Iterable[Any]) -> list[str]:
    """Stops well after the end, should paging not end."""
    return [item.id for item in islice(items, 10 * COUNT)]


@pytest.mark.parametrize("order_by", ["created_at", "updated_at", "last_run_completion"])
@pytest.mark.parametrize("limit", [1, 3, 50])
def test_agents(client: Letta, agents: list[str], tag: str, limit: int, order_by: Any) -> None:
    ascending = ids(client.agents.list(tags=[tag], limit=limit, order="asc", order_by=order_by))
    descending = ids(client.agents.list(tags=[tag], limit=limit, order="desc", order_by=order_by))
    assert sorted(ascending) == sorted(agents)
    assert descending == ascending[::-1]
    if order_by == "created_at":
        assert ascending == agents


def test_backwards_from_a_cursor(client: Letta, agents: list[str], tag: str) -> None:
    found = ids(client.agents.list(tags=[tag], limit=2, order="asc", before=agents[5]))
    assert sorted(found) == sorted(agents[:5])


def test_blocks(client: Letta, tag: str) -> None:
    made = [client.blocks.create(label=f"l{at}", value="v", tags=[tag]).id for at in range(COUNT)]
    assert ids(client.blocks.list(tags=[tag], limit=2)) == made
    assert ids(client.blocks.list(tags=[tag], limit=2, order="desc")) == made[::-1]
    for block_id in made:
        client.blocks.delete(block_id)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_blocks_and_tools_of_an_agent(client: Letta, new_agent: Callable[..., Any], order: Any) -> None:
    labels = [f"label{at}" for at in range(COUNT)]
    agent = new_agent(
        memory_blocks=[{"label": label, "value": ""} for label in labels],
        include_base_tools=True,
        agent_type="memgpt_agent",
    )
    blocks = [block.label for block in islice(client.agents.blocks.list(agent.id, limit=2, order=order), 99)]
    assert sorted(blocks) == labels
    tools = ids(client.agents.tools.list(agent.id, limit=2, order=order))
    assert len(tools) == len(agent.tools) and set(tools) == {tool.id for tool in agent.tools}


def test_an_agents_tools_do_not_end_after_the_first_page(client: Letta, new_agent: Callable[..., Any]) -> None:
    names = [tool.name for tool in client.tools.list(return_only_letta_tools=True)]
    assert len(names) > 10
    agent = new_agent(tools=names)
    assert len(ids(client.agents.tools.list(agent.id))) == len(names)


def test_tools(client: Letta) -> None:
    everything = ids(client.tools.list(limit=3, order="asc"))
    assert len(everything) == len(set(everything)) > 10
    assert ids(client.tools.list(limit=4, order="desc")) == everything[::-1]


def test_agents_of_a_block(client: Letta, agents: list[str]) -> None:
    block = client.blocks.create(label="shared", value="v")
    for agent_id in agents:
        client.agents.blocks.attach(block.id, agent_id=agent_id)
    assert ids(client.blocks.agents.list(block.id, limit=2, order="asc")) == agents
    client.blocks.delete(block.id)


def test_tags(client: Letta, agents: list[str], tag: str) -> None:
    assert len(agents) == COUNT
    first = client.tags.list(limit=3, query_text=f"{tag}-")
    rest = client.tags.list(limit=50, query_text=f"{tag}-", after=first[-1])
    assert [*first, *rest] == [f"{tag}-{at}" for at in range(COUNT)]
    assert client.tags.list(order="desc", query_text=f"{tag}-", limit=1) == [f"{tag}-{COUNT - 1}"]


def test_runs_steps_and_their_messages(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    for at in range(5):
        engine.script(text(f"answer {at}"))
        client.agents.messages.create(agent_id=agent.id, input=f"question {at}")
    runs = ids(client.runs.list(agent_id=agent.id, limit=2, order="asc"))
    assert len(runs) == len(set(runs)) == 5
    assert ids(client.runs.list(agent_id=agent.id, limit=2)) == runs[::-1]
    steps = ids(client.steps.list(agent_id=agent.id, limit=2, order="asc"))
    assert len(steps) == len(set(steps)) == 5
    assert ids(client.steps.list(agent_id=agent.id, limit=2)) == steps[::-1]
    said = list(islice(client.runs.messages.list(runs[0], limit=1), 50))
    assert [message.message_type for message in said] == ["user_message", "assistant_message"]
