"""Tool rules know what the request has called, also where a compaction took the calls out of the context and the server or the
run that asked is not the one that goes on."""

import asyncio
from typing import Any

import msgspec

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.core.agents import Agent, Block, Tool
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Approval, Message, ToolCall
from perdure.core.runs import Run, RunConfig
from perdure.store.conversations import conversation_state
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.unit.runs.compaction_world import World, new_world
from tests.unit.runs.test_compaction import overflow

INSERT, RETHINK, ASKING = "memory_insert", "memory_rethink", "memory_replace"
ARGUMENTS = {
    INSERT: {"label": "human", "new_string": "x"},
    RETHINK: {"label": "human", "new_memory": "y"},
    ASKING: {"label": "human", "old_string": "y", "new_string": "z"},
}
ONCE: dict[str, Any] = {"type": "max_count_per_step", "tool_name": INSERT, "max_count_limit": 2}
FIRST: dict[str, Any] = {"type": "run_first", "tool_name": INSERT}
CHILD: dict[str, Any] = {"type": "constrain_child_tools", "tool_name": INSERT, "children": [INSERT, RETHINK, ASKING]}
NEEDED: dict[str, Any] = {"type": "required_before_exit", "tool_name": INSERT}
ASKS: dict[str, Any] = {"type": "requires_approval", "tool_name": ASKING}


async def world_with(store: SqliteStore, *rules: dict[str, Any]) -> World:
    await ensure_builtin_tools(store)
    tools: list[Tool] = []
    for name in (INSERT, RETHINK, ASKING):
        found = await store.read(lambda name=name: find_tool(name))
        assert found is not None
        tools.append(found)

    def ruled(agent: Agent) -> Agent:
        return msgspec.structs.replace(agent, tool_rules=rules, memory_rendering="append")

    block = Block(id=new_id("block"), label="human", value="Ada")
    return await new_world(store, tools=tuple(tools), blocks=(block,), change=ruled, mode="all")


class Script:
    """Plans what the model does, and tells which tools it was offered in each step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0

    def calls(self, *names: str) -> None:
        for name in names:
            self.count += 1
            arguments = msgspec.json.encode(ARGUMENTS[name]).decode()
            self.world.model.answers.append([ToolCall(f"call_{self.count}", name, arguments)])

    def compacts(self) -> None:
        """Before the next step the provider refuses the prompt, and everything that may go is summarised."""
        self.world.model.answers += [overflow(), "notes"]

    def ends(self) -> None:
        self.world.model.answers.append("done")

    def offered(self) -> list[list[str]]:
        return [sorted(tool.name for tool in prompt.tools) for prompt in self.world.model.prompts if prompt.tools]


async def restart_in(world: World) -> None:
    """The server dies while it waits for the model."""
    await world.runner.stop(grace_s=0)
    world.runner = world.new_runner()
    await world.runner.start()


async def approve(world: World) -> None:
    pending = (await world.store.read(lambda: conversation_state(world.agent.id))).pending
    assert pending is not None
    run = Run(
        id=new_id("run"),
        agent_id=world.agent.id,
        conversation_id=world.agent.id,
        status="created",
        created_us=now_us(),
        config=RunConfig(include_pings=False),
    )
    answer = Message(
        id=new_id("message"),
        role="approval",
        created_us=now_us(),
        approvals=tuple(Approval(call.id, True) for call in pending.calls if call.asks),
        agent_id=world.agent.id,
        conversation_id=world.agent.id,
        run_id=run.id,
    )
    submitted = await world.runner.submit(run, (answer,), (), wait=True)
    await world.events(submitted.run_id)


async def test_a_spent_tool_stays_spent_after_compaction_and_crash(store: SqliteStore) -> None:
    world = await world_with(store, ONCE)
    script = Script(world)
    script.calls(INSERT, INSERT)
    script.compacts()
    script.calls(RETHINK)
    held = await _until(world, prompts=6, text="hello")
    await restart_in(world)
    script.ends()
    world.model.gate.set()
    await world.events(held)
    assert script.offered()[-1] == sorted([RETHINK, ASKING])
    await world.runner.stop()


async def test_a_first_tool_is_not_forced_again_after_compaction_and_crash(store: SqliteStore) -> None:
    world = await world_with(store, FIRST, NEEDED)
    script = Script(world)
    script.calls(INSERT)
    script.compacts()
    script.calls(RETHINK)
    held = await _until(world, prompts=5, text="hello")
    await restart_in(world)
    script.ends()
    world.model.gate.set()
    await world.events(held)
    assert script.offered()[-1] == sorted([INSERT, RETHINK, ASKING])
    assert world.model.answers == []  # and nothing was said to be missing before the end
    await world.runner.stop()


async def test_a_compaction_after_an_answered_request_forgets_no_call(store: SqliteStore) -> None:
    world = await world_with(store, ONCE, ASKS)
    script = Script(world)
    script.calls(INSERT, ASKING)
    await world.send("hello")
    script.calls(INSERT)
    script.compacts()
    script.calls(RETHINK)
    script.ends()
    await approve(world)
    assert script.offered()[-1] == sorted([RETHINK, ASKING])
    await world.runner.stop()


async def test_a_new_request_begins_anew_behind_a_summary(store: SqliteStore) -> None:
    world = await world_with(store, ONCE)
    script = Script(world)
    script.calls(INSERT, INSERT)
    script.compacts()
    script.ends()
    await world.send("hello")
    script.ends()
    await world.send("again")
    assert INSERT not in script.offered()[-2]
    assert INSERT in script.offered()[-1]
    await world.runner.stop()


async def _until(world: World, *, prompts: int, text: str) -> str:
    """Send, and wait until the model has been asked so often and is thinking."""

    async def hold() -> None:
        if len(world.model.prompts) >= prompts:
            world.model.gate.clear()
            await world.model.gate.wait()

    world.model.during = hold
    run_id = await world.submit(text)
    async with asyncio.timeout(20):
        while len(world.model.prompts) < prompts:
            await asyncio.sleep(0.001)
    world.model.during = None
    return run_id
