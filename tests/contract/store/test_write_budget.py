"""What a step may ask of the database: ten statements at p50, however long the history is, on every store."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolCall
from perdure.core.runs import Run, RunConfig
from perdure.runs.runner import Runner
from perdure.store import agents
from perdure.store.base import Store
from perdure.store.messages import insert_messages
from perdure.store.postgres import PostgresStore
from perdure.store.tools import find_tool
from tests.doubles.models import OneModel, PlayedModel

STATEMENTS = 10
ROUND_TRIPS = 5  # the news to other servers with them: what database time is made of


class Conversation:
    """One agent with a memory tool, and what its runs cost."""

    def __init__(self, store: Store, agent: Agent) -> None:
        self.store = store
        self.agent = agent
        self.model = PlayedModel()
        self.runner = Runner(store, OneModel(self.model), None)  # type: ignore[arg-type]

    async def cost(self) -> list[int]:
        """The statements of one run's transactions: its acceptance and what it loads, then each step."""
        costs: list[int] = []
        write, before = self.store.write, self.store.work.statements

        async def counted(tx: Any, **how: bool) -> Any:
            costs.append(self.store.work.statements - sum(costs) - before)
            result = await write(tx, **how)
            costs.append(self.store.work.statements - sum(costs) - before)
            return result

        self.store.write = counted  # type: ignore[method-assign]
        try:
            run = Run(
                id=new_id("run"),
                agent_id=self.agent.id,
                conversation_id=self.agent.id,
                status="created",
                created_us=now_us(),
                config=RunConfig(),
            )
            submitted = await self.runner.submit(run, (self.message("user"),), (), wait=True)
            await self.runner.outcome(submitted.run_id)
            while self.runner.active:
                await self.runner._jobs[submitted.run_id].task  # type: ignore[misc]
        finally:
            self.store.write = write  # type: ignore[method-assign]
        return costs

    def message(self, role: Any) -> Message:
        return Message(
            id=new_id("message"),
            role=role,
            created_us=now_us(),
            content=(TextPart("hello"),),
            agent_id=self.agent.id,
            conversation_id=self.agent.id,
        )


@pytest.fixture
async def conversation(store: Store) -> AsyncIterator[Conversation]:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None
    now = now_us()
    agent = Agent(id=new_id("agent"), name="test", system="You are a test.", model="m", created_us=now, updated_us=now)
    block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
    bundle = AgentBundle(agent=agent, blocks=(block,), tools=(tool,))
    system = first_system_message(bundle)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=[block.id], system_message=system))
    made = Conversation(store, agent)  # not started: what looks around in the background is no step's
    yield made
    await made.runner.stop()


@pytest.mark.parametrize("history", [10, 1000])
async def test_a_step_keeps_to_its_statements_at_any_history(conversation: Conversation, history: int) -> None:
    said = tuple(conversation.message(role) for _ in range(history // 2) for role in ("user", "assistant"))
    await conversation.store.write(lambda: insert_messages(said))
    await conversation.cost()
    # the least of a few counts: on PostgreSQL a transaction is run again when it met another write
    accepted, plain = min([await conversation.cost() for _ in range(3)], key=sum)
    assert accepted <= 4 and plain <= STATEMENTS
    assert accepted + plain <= STATEMENTS
    calling: list[int] = []
    answering: list[int] = []
    for at in range(5):
        conversation.model.answers = [ToolCall(f"call_{at}", "memory_insert", '{"label": "human", "new_string": "x"}')]
        *_, calls, between, answers = await conversation.cost()
        calling.append(calls)
        answering.append(between + answers)
    assert min(calling) <= STATEMENTS
    assert min(answering) <= STATEMENTS


@pytest.mark.parametrize("history", [10, 1000])
async def test_a_message_keeps_to_its_round_trips_at_any_history(
    conversation: Conversation, history: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(conversation.store, PostgresStore):
        pytest.skip("SQLite has no round trips")
    import asyncpg

    sent: list[str] = []

    def counting(method: Any) -> Any:
        async def counted(self: Any, sql: str, *more: Any, **options: Any) -> Any:
            sent.append(sql)
            return await method(self, sql, *more, **options)

        return counted

    for name in ("fetch", "fetchrow", "execute", "executemany"):
        monkeypatch.setattr(asyncpg.Connection, name, counting(getattr(asyncpg.Connection, name)))
    said = tuple(conversation.message(role) for _ in range(history // 2) for role in ("user", "assistant"))
    await conversation.store.write(lambda: insert_messages(said))
    await conversation.cost()
    counts: list[int] = []
    for _ in range(5):
        sent.clear()
        await conversation.cost()
        counts.append(len(sent))
    assert min(counts) <= ROUND_TRIPS, sent


async def test_an_agent_is_not_read_again_for_its_own_edits(conversation: Conversation) -> None:
    agent_id, kept = conversation.agent.id, conversation.runner.contexts._bundles
    arguments = '{"label": "human", "new_string": "likes tea"}'
    await conversation.cost()
    conversation.model.answers = [ToolCall("call_1", "memory_insert", arguments)]
    await conversation.cost()
    known, stored = kept.get(agent_id), await conversation.store.read(lambda: agents.agent_bundle(agent_id))
    assert known is not None and known.agent.revision == 2 and "likes tea" in known.blocks[0].value
    assert known.blocks == stored.blocks
    assert (known.agent.revision, known.agent.updated_us) == (stored.agent.revision, stored.agent.updated_us)
    await conversation.cost()
    assert kept.get(agent_id) is known, "nothing was read"


async def test_an_agent_that_others_change_meanwhile_is_read_again(conversation: Conversation) -> None:
    agent_id, kept = conversation.agent.id, conversation.runner.contexts._bundles
    await conversation.cost()
    renamed = replace(conversation.agent, name="renamed", revision=2)
    await conversation.store.write(lambda: agents.replace_agent(renamed))
    loaded = kept.get(agent_id)
    assert loaded is not None and loaded.agent.name == "test"
    conversation.model.answers = [ToolCall("call_1", "memory_insert", '{"label": "human", "new_string": "x"}')]
    await conversation.cost()
    await conversation.cost()
    known, stored = kept.get(agent_id), await conversation.store.read(lambda: agents.agent_bundle(agent_id))
    assert known is not None and known.agent.name == "renamed" and known.blocks == stored.blocks
