"""What a new agent is given, and what is refused."""

from typing import Any

import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.create import create_agent
from perdure.agents.names import checked_name, made_up_name
from perdure.agents.spec import AgentSpec, BlockSpec
from perdure.core.errors import AgentError, Conflict, Invalid, NotFound
from perdure.store import agents as agent_store
from perdure.store.messages import message_by_id
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import built_in_tools
from perdure.tools.registry import BUILTIN_TOOLS
from tests.doubles.fixed_registry import FixedRegistry, info


async def test_a_new_agent_is_stored_with_its_compiled_prompt(make: Any, ready: SqliteStore) -> None:
    view = await make(system="Be kind.", memory_blocks=(BlockSpec(label="human", value="Ada"),))
    stored = await ready.read(lambda: agent_store.agent_view(view.bundle.agent.id))
    assert stored == view
    found = await ready.read(lambda: message_by_id(view.message_ids[0]))
    assert found is not None and found[1].role == "system"
    assert found[1].text.startswith("Be kind.") and "Ada" in found[1].text
    assert view.bundle.blocks[0].description  # a human block is told what it is for


@pytest.mark.parametrize(
    ("agent_type", "tools", "rules"),
    [
        ("letta_v1_agent", {"conversation_search", "memory_replace", "memory_insert"}, 0),
        ("memgpt_v2_agent", {"conversation_search", "memory_replace", "memory_insert", "send_message"}, 4),
        ("react_agent", set(), 0),
    ],
)
async def test_base_tools_and_rules_follow_the_type(make: Any, agent_type: str, tools: set[str], rules: int) -> None:
    bundle = (await make(agent_type=agent_type)).bundle
    assert {tool.name for tool in bundle.tools} == tools
    assert len(bundle.agent.tool_rules) == rules


async def test_tools_named_twice_are_attached_once(make: Any) -> None:
    bundle = (await make(tools=("memory_insert", "archival_memory_search"))).bundle
    names = [tool.name for tool in bundle.tools]
    assert len(names) == len(set(names)) == 4


async def test_a_workflow_agent_clears_its_messages(make: Any) -> None:
    assert (await make(agent_type="workflow_agent")).bundle.agent.message_buffer_autoclear


async def test_the_context_window_is_the_models_unless_less_is_asked(make: Any) -> None:
    assert (await make()).bundle.agent.context_window == 4096
    assert (await make(context_window_limit=1000)).bundle.agent.context_window == 1000
    with pytest.raises(Invalid, match="context_window_limit: 5000 is more than the 4096"):
        await make(context_window_limit=5000)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"model": "openai/none"}, NotFound, "openai/none"),
        ({"name": "no/slash"}, Invalid, "'/' is not allowed"),
        ({"name": "  "}, Invalid, "name: must not be empty"),
        ({"timezone": "Mars/Olympus"}, Invalid, "timezone"),
        ({"tools": ("nope",)}, Invalid, "tools: there is no tool named 'nope'"),
        ({"tool_ids": ("tool-1",)}, NotFound, "tool-1"),
        ({"block_ids": ("block-1",)}, NotFound, "block-1"),
        ({"tool_rules": ({"type": "odd"},)}, Invalid, r"tool_rules\[0\].type"),
        ({"memory_blocks": (BlockSpec(label="a"), BlockSpec(label="a"))}, Conflict, "labelled 'a'"),
        ({"memory_blocks": (BlockSpec(label="a", value="xxx", limit=2),)}, Invalid, r"memory_blocks\[0\].value"),
        ({"memory_blocks": (BlockSpec(label="a\nb"),)}, Invalid, "label"),
    ],
)
async def test_what_is_refused_leaves_nothing(
    make: Any, ready: SqliteStore, fields: dict[str, Any], error: type[AgentError], text: str
) -> None:
    with pytest.raises(error, match=text):
        await make(**fields)
    assert await ready.read(agent_store.count_agents) == 0


async def test_without_a_model_the_default_or_the_only_one_is_taken(
    ready: SqliteStore, registry: FixedRegistry
) -> None:
    spec = AgentSpec()
    view = await create_agent(ready, registry, spec, default_model="openai/large")
    assert view.bundle.agent.model == "openai/large"
    only = FixedRegistry(info("sglang/a/b"), info("openai/embed", kind="embedding"))
    assert (await create_agent(ready, only, spec)).bundle.agent.model == "sglang/a/b"
    with pytest.raises(Invalid, match="an agent needs a model"):
        await create_agent(ready, registry, spec)


def test_made_up_names_are_allowed() -> None:
    for _ in range(200):
        assert checked_name(made_up_name())
    assert checked_name("Zoë's agent_1 - b") == "Zoë's agent_1 - b"


async def test_built_in_tools_are_written_once(store: SqliteStore) -> None:
    await ensure_builtin_tools(store)
    first = await store.read(built_in_tools)
    await ensure_builtin_tools(store)
    assert await store.read(built_in_tools) == first
    assert first.keys() == BUILTIN_TOOLS.keys()
