"""What conversations that rest take of the memory: weighed as they grow, and read again where there was no room for them."""

import asyncio
import itertools
from typing import Any

from perdure.core.agents import Agent, AgentBundle
from perdure.core.conversations import ConversationSettings
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.providers.base import TokenStream
from perdure.runs.context import Context
from perdure.runs.runner import Runner
from perdure.store import agents
from perdure.store.sqlite import SqliteStore
from tests.unit.runs.test_runner import World, insert, world

__all__ = ["world"]


def said(text: str) -> Message:
    return Message(id=new_id("message"), role="user", created_us=now_us(), content=(TextPart(text),))


def a_context(messages: list[Message]) -> Context:
    agent = Agent(id=new_id("agent"), name="test", model="m", created_us=0, updated_us=0)
    return Context(
        conversation_id=agent.id,
        version=1,
        fence=1,
        system=None,
        messages=messages,
        tokens=TokenStream(),
        bundle=AgentBundle(agent=agent),
        own=ConversationSettings(),
    )


def test_a_context_is_weighed_as_it_grows_and_shrinks() -> None:
    context = a_context([said("x" * 10_000)])
    assert 10_000 < context.weigh() < 11_000
    context.messages.append(said("y" * 5_000))
    assert 15_000 < context.weigh() < 17_000
    assert context.tokens is not None
    context.tokens.ids.extend(range(1000))
    assert 19_000 < context.weigh() < 21_000
    context.messages[:] = [said("summary"), said("z"), said("z")]  # a compaction
    context.version += 1
    assert 4_000 < context.weigh() < 7_000


async def test_a_conversation_that_found_no_room_is_read_again(world: World, store: SqliteStore) -> None:
    """Its prompt is the same as that of one that was kept."""
    now = now_us()
    other = Agent(id=new_id("agent"), name="other", model="m", created_us=now, updated_us=now)
    system = Message(id=new_id("message"), role="system", created_us=now, agent_id=other.id, conversation_id=other.id)
    await store.write(lambda: agents.create_agent(AgentBundle(agent=other), new_blocks=[], system_message=system))
    prompts: list[Any] = []
    first = world.agent
    for cache_bytes in (1 << 20, 1):
        await world.runner.stop()
        world.runner = Runner(store, world.registry, None, cache_bytes=cache_bytes)  # type: ignore[arg-type]
        world.agent = first
        await world.send("hello " * 100)
        world.agent = other
        await world.send("hello " * 100)
        kept = len(world.runner.contexts._kept)
        assert kept == (2 if cache_bytes > 1 else 1)
        world.agent = first
        world.model.answers = [insert("x"), "done"]
        await world.send("remember")
        prompts.append(world.model.prompts[-1])
    before, after = ([message.id for message in prompt.messages] for prompt in prompts)
    assert after[: len(before)] == before


async def test_the_weight_follows_the_runs(world: World) -> None:
    weights: list[int] = []
    for _ in range(3):
        await world.send("x" * 10_000)
        while world.runner.active:
            await asyncio.sleep(0)
        weights.append(world.runner.contexts._kept.weight)
    steps = [after - before for before, after in itertools.pairwise(weights)]
    assert all(10_000 < step < 13_000 for step in steps), weights
