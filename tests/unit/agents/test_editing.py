"""Edits by people: they show in the default conversation at once, and break its token stream only if the prompt changed."""

from typing import Any

import pytest

from perdure.agents import edit_blocks, edit_tools
from perdure.agents.recompile import recompile
from perdure.agents.run_tool import run_tool_of_agent
from perdure.agents.spec import AgentChange, BlockChange, BlockSpec
from perdure.agents.update import update_agent
from perdure.core.errors import Conflict, Invalid, NotFound
from perdure.store import agents as agent_store
from perdure.store.conversations import ConversationState, conversation_state, noted_blocks
from perdure.store.messages import message_by_id
from perdure.store.sqlite import SqliteStore
from tests.doubles.fixed_registry import FixedRegistry

HUMAN = BlockSpec(label="human", value="Ada")


async def state_of(store: SqliteStore, agent_id: str) -> tuple[ConversationState, str]:
    """The default conversation and its compiled prompt."""
    state = await store.read(lambda: conversation_state(agent_id))
    found = await store.read(lambda: message_by_id(state.head_ids[0]))
    assert found is not None
    return state, found[1].text


async def test_a_block_edit_reaches_every_agent_that_has_it(make: Any, ready: SqliteStore) -> None:
    one = (await make(memory_blocks=(HUMAN,))).bundle
    block = one.blocks[0]
    two = (await make(block_ids=(block.id,))).bundle
    before, _ = await state_of(ready, two.agent.id)
    await ready.write(lambda: edit_blocks.change_block(block.id, BlockChange(value="Grace")))
    for bundle in (one, two):
        state, text = await state_of(ready, bundle.agent.id)
        assert "Grace" in text and "Ada" not in text
        assert state.break_cause == "memory_rewrite: block human was edited"
        assert state.compiled_revision == state.agent_revision == bundle.agent.revision + 1
        assert state.context_version > 1
    after, _ = await state_of(ready, two.agent.id)
    assert after.head_ids == before.head_ids  # rewritten in place


async def test_what_no_prompt_shows_breaks_nothing(make: Any, ready: SqliteStore) -> None:
    bundle = (await make(memory_blocks=(HUMAN,))).bundle
    change = BlockChange(metadata={"k": 1}, tags=("t",), hidden=True)
    await ready.write(lambda: edit_blocks.change_block(bundle.blocks[0].id, change))
    await ready.write(lambda: recompile(bundle.agent.id, "asked for"))
    state, _ = await state_of(ready, bundle.agent.id)
    assert (state.break_cause, state.context_version, state.agent_revision) == (None, 1, 1)


async def test_touching_the_time_rewrites_the_prompt(make: Any, ready: SqliteStore) -> None:
    bundle = (await make()).bundle
    await ready.write(lambda: recompile(bundle.agent.id, "asked for", touch_time=True))
    state, _ = await state_of(ready, bundle.agent.id)
    assert state.break_cause == "memory_rewrite: asked for"


async def test_the_value_may_not_exceed_the_limit(make: Any, ready: SqliteStore) -> None:
    block = (await make(memory_blocks=(HUMAN,))).bundle.blocks[0]
    with pytest.raises(Invalid, match="value: has 4 characters, more than the block's limit of 3"):
        await ready.write(lambda: edit_blocks.change_block(block.id, BlockChange(value="four", limit=3)))
    with pytest.raises(Invalid, match="limit: has 3 characters"):
        await ready.write(lambda: edit_blocks.change_block(block.id, BlockChange(limit=2)))


async def test_attach_and_detach_recompile(make: Any, ready: SqliteStore) -> None:
    agent_id = (await make()).bundle.agent.id
    block = await ready.write(lambda: edit_blocks.create_block(BlockSpec(label="plans", value="sail")))
    await ready.write(lambda: edit_blocks.attach_block(agent_id, block.id))
    state, text = await state_of(ready, agent_id)
    assert "sail" in text
    await ready.write(lambda: edit_blocks.attach_block(agent_id, block.id))  # again: nothing happens
    assert (await state_of(ready, agent_id))[0] == state
    await ready.write(lambda: edit_blocks.detach_block(agent_id, block.id))
    assert "sail" not in (await state_of(ready, agent_id))[1]
    with pytest.raises(NotFound, match="not attached"):
        await ready.write(lambda: edit_blocks.detach_block(agent_id, block.id))


async def test_a_deleted_block_leaves_the_prompt(make: Any, ready: SqliteStore) -> None:
    bundle = (await make(memory_blocks=(HUMAN,))).bundle
    await ready.write(lambda: edit_blocks.delete_block(bundle.blocks[0].id))
    assert "Ada" not in (await state_of(ready, bundle.agent.id))[1]


async def test_append_rendering_keeps_the_prompt_of_a_begun_conversation(
    make: Any, ready: SqliteStore, registry: FixedRegistry
) -> None:
    bundle = (await make(memory_blocks=(HUMAN,), memory_rendering="append", system="Old.")).bundle
    agent_id = bundle.agent.id
    await ready.write(lambda: noted_blocks(agent_id, 1, {"human": "Ada"}))
    await ready.write(lambda: edit_blocks.change_block(bundle.blocks[0].id, BlockChange(value="Grace")))
    state, text = await state_of(ready, agent_id)
    assert "Ada" in text and state.break_cause is None
    assert state.compiled_revision < state.agent_revision  # the next request will tell of it
    await update_agent(ready, registry, agent_id, AgentChange(system="New."))
    state, text = await state_of(ready, agent_id)
    assert text.startswith("New.") and "Grace" in text and state.seen_blocks is None


async def test_an_update_changes_what_it_names_only(make: Any, ready: SqliteStore, registry: FixedRegistry) -> None:
    before = (await make(name="one", tags=("a",), metadata={"k": 1}, memory_blocks=(HUMAN,))).bundle
    change = AgentChange(description="d", tags=("c", "b"), model="openai/large", secrets={"K": "v"})
    after = (await update_agent(ready, registry, before.agent.id, change)).bundle
    assert (after.agent.name, after.agent.metadata, after.blocks) == ("one", {"k": 1}, before.blocks)
    assert (after.agent.description, after.tags, after.agent.secrets) == ("d", ("c", "b"), {"K": "v"})
    assert (after.agent.model, after.agent.context_window) == ("openai/large", 100_000)
    assert after.agent.revision == before.agent.revision + 1
    assert (await ready.read(lambda: agent_store.agent_bundle(before.agent.id))) == after


async def test_an_update_sets_tools_and_blocks(make: Any, ready: SqliteStore, registry: FixedRegistry) -> None:
    bundle = (await make(memory_blocks=(HUMAN,))).bundle
    keep = bundle.tools[0]
    spare = await ready.write(lambda: edit_blocks.create_block(BlockSpec(label="spare", value="s")))
    clash = await ready.write(lambda: edit_blocks.create_block(BlockSpec(label="spare")))
    change = AgentChange(tool_ids=(keep.id,), block_ids=(spare.id,))
    after = (await update_agent(ready, registry, bundle.agent.id, change)).bundle
    assert after.tools == (keep,) and [block.id for block in after.blocks] == [spare.id]
    with pytest.raises(Conflict):
        await update_agent(ready, registry, bundle.agent.id, AgentChange(block_ids=(spare.id, clash.id)))
    with pytest.raises(NotFound):
        await update_agent(ready, registry, bundle.agent.id, AgentChange(tool_ids=("tool-none",)))


async def test_setting_the_messages_is_a_history_edit(make: Any, ready: SqliteStore, registry: FixedRegistry) -> None:
    view = await make()
    agent_id = view.bundle.agent.id
    after = await update_agent(ready, registry, agent_id, AgentChange(message_ids=view.message_ids))
    assert after.message_ids == view.message_ids
    state, _ = await state_of(ready, agent_id)
    assert state.break_cause is not None and state.break_cause.startswith("history_edit")
    with pytest.raises(NotFound, match="message_ids: message message-x"):
        await update_agent(ready, registry, agent_id, AgentChange(message_ids=("message-x",)))


SOURCE = '''
def roll(sides: int) -> int:
    """Roll a die.

    Args:
        sides (int): how many sides it has
    """
    return sides
'''


async def test_a_tool_is_put_by_its_name(ready: SqliteStore) -> None:
    tool = await ready.write(lambda: edit_tools.put_tool(edit_tools.ToolSpec(source_code=SOURCE, tags=("a", "a"))))
    assert (tool.name, tool.tags) == ("roll", ("a",))
    assert tool.json_schema["parameters"]["required"] == ["sides"]
    again = edit_tools.ToolSpec(source_code=SOURCE, return_char_limit=10)
    changed = await ready.write(lambda: edit_tools.put_tool(again))
    assert (changed.id, changed.return_char_limit, changed.created_us) == (tool.id, 10, tool.created_us)


async def test_a_renamed_function_renames_its_tool(make: Any, ready: SqliteStore) -> None:
    tool = await ready.write(lambda: edit_tools.put_tool(edit_tools.ToolSpec(source_code=SOURCE)))
    agent_id = (await make(tool_ids=(tool.id,))).bundle.agent.id
    source = SOURCE.replace("def roll", "def throw")
    renamed = await ready.write(lambda: edit_tools.change_tool(tool.id, edit_tools.ToolChange(source_code=source)))
    assert (renamed.id, renamed.name, renamed.json_schema["name"]) == (tool.id, "throw", "throw")
    assert (await ready.read(lambda: agent_store.agent_by_id(agent_id))).revision == 2
    await ready.write(lambda: edit_tools.put_tool(edit_tools.ToolSpec(source_code=SOURCE)))
    back = edit_tools.ToolChange(source_code=SOURCE)
    with pytest.raises(Invalid, match="'roll' exists already"):
        await ready.write(lambda: edit_tools.change_tool(tool.id, back))


async def test_built_in_tools_are_not_replaced_changed_or_deleted(ready: SqliteStore, make: Any) -> None:
    tool = (await make()).bundle.tools[0]
    taken = edit_tools.ToolSpec(source_code=SOURCE.replace("roll", "memory_insert"))
    for tx in (
        lambda: edit_tools.put_tool(taken),
        lambda: edit_tools.change_tool(tool.id, edit_tools.ToolChange(source_code=SOURCE)),
        lambda: edit_tools.delete_tool(tool.id),
    ):
        with pytest.raises(Invalid, match="built-in"):
            await ready.write(tx)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"source_code": "x", "source_type": "typescript"}, "json_schema: is needed"),
        ({"source_code": "x", "json_schema": {"name": "n" * 49}}, "at most 48"),
        ({"source_code": "x", "json_schema": {"name": "a b"}}, "may only have the letters"),
        ({"source_code": "x", "json_schema": {"parameters": {}}}, "json_schema.name"),
        ({"source_code": "x", "json_schema": {"name": "a", "parameters": [1]}}, "json_schema.parameters"),
    ],
)
async def test_a_tool_without_a_usable_schema_is_refused(ready: SqliteStore, spec: dict[str, Any], text: str) -> None:
    with pytest.raises(Invalid, match=text):
        await ready.write(lambda: edit_tools.put_tool(edit_tools.ToolSpec(**spec)))


async def test_attaching_a_tool_brings_its_approval_rule(make: Any, ready: SqliteStore) -> None:
    agent_id = (await make()).bundle.agent.id
    spec = edit_tools.ToolSpec(source_code=SOURCE, default_requires_approval=True)
    tool = await ready.write(lambda: edit_tools.put_tool(spec))
    await ready.write(lambda: edit_tools.attach_tool(agent_id, tool.id))
    bundle = await ready.read(lambda: agent_store.agent_bundle(agent_id))
    rule = {"type": "requires_approval", "tool_name": "roll", "prompt_template": None}
    assert bundle.agent.tool_rules == (rule,) and bundle.tools[-1].id == tool.id
    await ready.write(lambda: edit_tools.set_approval(agent_id, "roll", False))
    await ready.write(lambda: edit_tools.set_approval(agent_id, "roll", False))
    assert (await ready.read(lambda: agent_store.agent_by_id(agent_id))).tool_rules == ()
    with pytest.raises(NotFound, match="has no tool named 'nope'; its tools are: conversation_search"):
        await ready.write(lambda: edit_tools.set_approval(agent_id, "nope", True))


async def test_a_memory_tool_run_by_hand_edits_the_memory(make: Any, ready: SqliteStore) -> None:
    bundle = (await make(memory_blocks=(HUMAN,))).bundle
    args = {"label": "human", "old_string": "Ada", "new_string": "Grace"}
    result = await run_tool_of_agent(ready, None, None, bundle.agent.id, "memory_replace", args)  # type: ignore[arg-type]
    assert result.status == "success"
    after = await ready.read(lambda: agent_store.agent_bundle(bundle.agent.id))
    assert after.blocks[0].value == "Grace"
    assert "Grace" in (await state_of(ready, bundle.agent.id))[1]
    failed = await run_tool_of_agent(ready, None, None, bundle.agent.id, "memory_replace", args)  # type: ignore[arg-type]
    assert (failed.status, failed.value) == ("error", None) and failed.stderr
    with pytest.raises(Invalid, match="args"):
        await run_tool_of_agent(ready, None, None, bundle.agent.id, "memory_replace", {})  # type: ignore[arg-type]
