"""What fills the window, for engines that take token ids: the parts add up to exactly the prompt that was sent."""

from typing import Any

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.core.agents import Agent, Block
from perdure.core.errors import ProviderError
from perdure.core.ids import new_id
from perdure.providers.scripted import Completion
from perdure.runs.context_use import ContextUse, context_use
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.unit.runs.compaction_world import World, new_world, scripted_engine
from tests.unit.runs.test_pinned import pin, said

CALL = (
    '<tool_call>\n{"name": "memory_insert", "arguments": {"label": "human", "new_string": "likes tea"}}\n</tool_call>'
)


async def use_of(world: World) -> ContextUse:
    return await context_use(world.store, world.registry, world.agent.id)  # type: ignore[arg-type]


async def check(world: World, text: str) -> ContextUse:
    """Send a message that the engine takes and fails to answer: the context is then what the prompt was made of."""
    assert world.engine is not None
    failure = ProviderError("broken", kind="llm_bad_request", status=400)
    world.engine.completions.append(Completion(text="x", fail_after=0, error=failure))
    await world.send(text)
    found = await use_of(world)
    parts = [found.system, found.core_memory, found.tool_rules, found.metadata, found.summary]
    total = sum(part.tokens for part in parts if part is not None)
    total += found.definitions_tokens + found.messages_tokens + found.template_tokens
    assert found.source == "tokenizer"
    assert total == found.total == len(world.engine.requests[-1].ids)
    return found


@pytest.fixture
async def world(store: SqliteStore) -> Any:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None

    def ruled(agent: Agent) -> Agent:
        return msgspec.structs.replace(agent, tool_rules=({"type": "continue_loop", "tool_name": "memory_insert"},))

    block = Block(id=new_id("block"), label="human", value="Ada " * 20)
    made = await new_world(
        store,
        engine=scripted_engine(default="a short answer"),
        window=6_000,
        tools=(tool,),
        blocks=(block,),
        change=ruled,
    )
    yield made
    await made.runner.stop()


async def test_the_first_prompt_is_counted_to_the_token(world: World) -> None:
    found = await check(world, "hello")
    assert min(found.core_memory.tokens, found.tool_rules.tokens, found.definitions_tokens, found.messages_tokens) > 0
    assert found.summary is None and found.template_tokens >= 0


async def test_calls_and_returns_count_as_the_model_sees_them(world: World) -> None:
    assert world.engine is not None
    world.engine.completions += [Completion(text=CALL), Completion(text="noted")]
    await world.send("I like tea")
    assert [message.role for message in await world.context()] == ["system", "user", "assistant", "tool", "assistant"]
    await check(world, "and?")


async def test_a_summary_and_what_is_pinned_are_counted_apart(world: World) -> None:
    for turn in range(4):
        await world.send(f"question {turn}")
    await pin(world, await said(world, "question 0"), mode="all")
    await world.compact()
    found = await check(world, "go on")
    assert found.summary is not None and found.summary.tokens > 0
    assert 0 < found.pinned_tokens < found.messages_tokens


async def test_thinking_counts_only_where_the_next_prompt_shows_it(world: World) -> None:
    assert world.engine is not None
    for turn in range(3):
        world.engine.completions.append(Completion(text=f"<think>\nhm, turn {turn}\n</think>\n\nyes"))
        await world.send("think")
        await check(world, "still there?")
