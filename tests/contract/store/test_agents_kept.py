"""What every store must do with agents, blocks, tools, tags."""

from typing import Any

import msgspec
import pytest

from perdure.core.agents import Agent, AgentBundle, Block, ModelSettings, Tool
from perdure.core.archives import Passage
from perdure.core.errors import Conflict, Invalid, NotFound, StaleBlock
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.store import agents, blocks, passages, tools
from perdure.store.agents import AgentFilter
from perdure.store.base import Query, Store, Tx
from perdure.store.blocks import BlockFilter
from perdure.store.conversations import conversation_state
from perdure.store.listing import Page
from perdure.store.messages import insert_messages
from perdure.store.passage_search import PassageSearch, search_passages
from perdure.store.tags import list_tags
from perdure.store.tools import ToolFilter

ALL = {"blocks": True, "tools": True, "tags": True}


def block(label: str = "human", **fields: Any) -> Block:
    now = now_us()
    return Block(id=new_id("block"), label=label, created_us=now, updated_us=now, **{"value": "v", **fields})


def tool(name: str = "roll", **fields: Any) -> Tool:
    now = now_us()
    return Tool(id=new_id("tool"), name=name, created_us=now, updated_us=now, **fields)


async def create(store: Store, *, new: tuple[Block, ...] = (), tags: tuple[str, ...] = (), **fields: Any) -> Agent:
    """An agent with new blocks, given tools (`with_tools`) and existing blocks (`with_blocks`)."""
    now = now_us()
    with_tools, with_blocks = fields.pop("with_tools", ()), fields.pop("with_blocks", ())
    agent = Agent(id=new_id("agent"), created_us=now, updated_us=now, **{"name": "a", **fields})
    system = Message(
        id=new_id("message"),
        role="system",
        created_us=now,
        content=(TextPart("compiled"),),
        agent_id=agent.id,
        conversation_id=agent.id,
    )
    bundle = AgentBundle(agent=agent, blocks=(*new, *with_blocks), tools=with_tools, tags=tags)
    await store.write(lambda: agents.create_agent(bundle, new_blocks={each.id for each in new}, system_message=system))
    return agent


async def test_an_agent_comes_back_as_it_was_stored(store: Store) -> None:
    roll = tool()
    await store.write(lambda: tools.create_tool(roll))
    human = block(description="who", read_only=True, tags=("z", "a"), metadata={"k": [1]}, extra={"project_id": "p"})
    agent = await create(
        store,
        new=(human,),
        tags=("second", "first"),
        with_tools=(roll,),
        secrets={"KEY": "value"},
        tool_rules=({"type": "exit_loop", "tool_name": "roll"},),
        model_settings=ModelSettings(temperature=0.5, stop=("x",), raw={"odd": {"kept": True}}),
    )
    found = await store.read(lambda: agents.agent_bundle(agent.id))
    assert found == AgentBundle(agent=agent, blocks=(human,), tools=(roll,), tags=("second", "first"))


async def test_the_default_conversation_begins_with_the_system_message(store: Store) -> None:
    agent = await create(store)
    view = await store.read(lambda: agents.agent_view(agent.id))
    state = await store.read(lambda: conversation_state(agent.id))
    assert view.message_ids == state.head_ids and len(view.message_ids) == 1
    assert state.compiled_revision == agent.revision == state.agent_revision
    said = Message(id=new_id("message"), role="user", created_us=1, agent_id=agent.id, conversation_id=agent.id)
    await store.write(lambda: insert_messages((said,)))
    view = await store.read(lambda: agents.agent_view(agent.id))
    assert view.message_ids == (*state.head_ids, said.id)


async def test_a_failed_creation_leaves_nothing(store: Store) -> None:
    with pytest.raises(Conflict):
        await create(store, new=(block("same"), block("same")))
    with pytest.raises(NotFound):
        await create(store, with_tools=(tool("not stored"),))
    assert await store.read(agents.count_agents) == 0
    assert await store.read(blocks.count_blocks) == 0


async def test_deleting_an_agent_takes_what_only_it_has(store: Store) -> None:
    human = block()
    agent = await create(store, new=(human,), tags=("t",))
    passage = Passage(id=new_id("passage"), text="fox")
    await store.write(lambda: passages.file_for_agent(agent.id, [passage], 1))
    await store.write(lambda: agents.delete_agent(agent.id))
    with pytest.raises(NotFound, match="Agent not found"):
        await store.read(lambda: agents.agent_bundle(agent.id))
    with pytest.raises(NotFound):
        await store.read(lambda: conversation_state(agent.id))
    assert await store.scan(lambda: search_passages(PassageSearch(query="fox"))) == []
    assert (
        await store.scan(
            lambda: list_tags("agent", after=None, before=None, limit=None, descending=False, query_text=None)
        )
        == []
    )
    assert (await store.read(lambda: blocks.block_by_id(human.id))).label == "human"


async def test_agents_are_found_by_what_they_are(store: Store) -> None:
    one = await create(store, name="Alpha_1", tags=("x", "y"), project_id="p")
    two = await create(store, name="alpha%2", tags=("x",))
    hidden = await create(store, name="alpha_h", hidden=True)

    async def ids(**wanted: Any) -> set[str]:
        found = await store.scan(lambda: agents.list_agents(AgentFilter(**wanted), Page(), **ALL))
        return {view.bundle.agent.id for view in found}

    assert await ids() == {one.id, two.id}
    assert await ids(with_hidden=True) == {one.id, two.id, hidden.id}
    assert await ids(name="Alpha_1") == {one.id}
    assert await ids(query_text="ALPHA_") == {one.id}
    assert await ids(tags=("x", "y")) == {one.id, two.id}
    assert await ids(tags=("x", "y"), match_all_tags=True) == {one.id}
    assert await ids(project_id="p") == {one.id}
    assert await ids(tags=("none",)) == set()


async def test_a_listing_loads_only_the_links_asked_for(store: Store) -> None:
    shared = block("shared")
    await store.write(lambda: blocks.create_block(shared))
    await create(store, with_blocks=(shared,), tags=("t",))
    await create(store, with_blocks=(shared,))
    bare = await store.scan(lambda: agents.list_agents(AgentFilter(), Page(), blocks=False, tools=False, tags=False))
    full = await store.scan(lambda: agents.list_agents(AgentFilter(block_id=shared.id), Page(), **ALL))
    assert [view.bundle.blocks for view in bare] == [(), ()]
    assert [view.bundle.blocks for view in full] == [(shared,), (shared,)]
    assert [view.bundle.tags for view in full] == [(), ("t",)]
    assert all(len(view.message_ids) == 1 for view in bare)


async def test_an_edit_of_an_old_version_is_stale(store: Store) -> None:
    human = block()
    await store.write(lambda: blocks.create_block(human))
    changed = await store.write(lambda: blocks.replace_block(msgspec.structs.replace(human, value="new")))
    assert changed.version == 2
    with pytest.raises(StaleBlock):
        await store.write(lambda: blocks.replace_block(msgspec.structs.replace(human, value="late")))
    assert (await store.read(lambda: blocks.block_by_id(human.id))).value == "new"


async def test_a_label_is_unique_on_an_agent(store: Store) -> None:
    agent = await create(store, new=(block("human"),))
    other = block("human")
    await store.write(lambda: blocks.create_block(other))
    with pytest.raises(Conflict, match="already has a block labelled 'human'"):
        await store.write(lambda: blocks.attach_block(agent.id, other))
    third = block("third")
    await store.write(lambda: blocks.create_block(third))
    await store.write(lambda: blocks.attach_block(agent.id, third))
    with pytest.raises(Conflict):
        await store.write(lambda: blocks.replace_block(msgspec.structs.replace(third, label="human")))
    found = await store.read(lambda: blocks.blocks_of_agent(agent.id))
    assert [each.label for each in found] == ["human", "third"]


async def test_blocks_are_found_by_what_they_are(store: Store) -> None:
    human = block("human", value="likes tea", tags=("x",))
    spare = block("spare", description="a spare part", is_template=True, extra={"template_name": "tpl"})
    await store.write(lambda: blocks.create_block(spare))
    await create(store, new=(human,))

    async def labels(**wanted: Any) -> list[str]:
        found = await store.scan(lambda: blocks.list_blocks(BlockFilter(**wanted), Page(descending=False)))
        return [each.label for each in found]

    assert sorted(await labels()) == ["human", "spare"]
    assert await labels(label="spare") == ["spare"]
    assert await labels(templates_only=True) == ["spare"]
    assert await labels(template_name="tpl") == ["spare"]
    assert await labels(value_search="TEA") == ["human"]
    assert await labels(description_search="part") == ["spare"]
    assert await labels(label_search="um") == ["human"]
    assert await labels(tags=("x",)) == ["human"]
    assert await labels(agents_eq=(0,)) == ["spare"]
    assert await labels(agents_gt=0) == ["human"]
    assert await labels(agents_lt=1) == ["spare"]


async def test_tool_names_are_unique_and_renames_checked(store: Store) -> None:
    roll, flip = tool("roll"), tool("flip")
    await store.write(lambda: tools.create_tool(roll))
    await store.write(lambda: tools.create_tool(flip))
    with pytest.raises(Invalid, match="exists already"):
        await store.write(lambda: tools.create_tool(tool("roll")))
    with pytest.raises(Invalid, match="exists already"):
        await store.write(lambda: tools.replace_tool(msgspec.structs.replace(flip, name="roll")))
    names = await store.scan(lambda: tools.list_tools(ToolFilter(names=("flip", "none")), Page()))
    assert names == [flip]
    assert await store.scan(lambda: tools.list_tools(ToolFilter(names=()), Page())) == []


async def test_a_changed_or_deleted_tool_raises_the_revision_of_its_agents(store: Store) -> None:
    roll = tool()
    await store.write(lambda: tools.create_tool(roll))
    agent = await create(store, with_tools=(roll,))
    assert await store.write(lambda: tools.replace_tool(roll)) == [agent.id]
    assert (await store.read(lambda: agents.agent_by_id(agent.id))).revision == 2
    assert await store.write(lambda: tools.delete_tool(roll.id, 5)) == [agent.id]
    bundle = await store.read(lambda: agents.agent_bundle(agent.id))
    assert bundle.agent.revision == 3 and bundle.tools == ()


async def test_tags_page_by_name(store: Store) -> None:
    await create(store, tags=("b", "a"))
    await create(store, tags=("c", "b"))

    async def page(**fields: Any) -> list[str]:
        given = {"after": None, "before": None, "limit": None, "descending": False, "query_text": None, **fields}
        return await store.scan(lambda: list_tags("agent", **given))

    assert await page() == ["a", "b", "c"]
    assert await page(after="a", limit=1) == ["b"]
    assert await page(descending=True, after="c") == ["b", "a"]
    assert await page(before="c", limit=1) == ["b"]
    assert await page(query_text="C") == ["c"]


async def test_the_revision_of_every_agent_of_a_block_can_be_raised(store: Store) -> None:
    human = block()
    agent = await create(store, new=(human,))

    def tx() -> Tx[None]:
        yield Query("bump_agents_of_block", {"block_id": human.id, "now": 1})

    await store.write(tx)
    assert (await store.read(lambda: agents.agent_by_id(agent.id))).revision == 2


async def test_a_deleted_block_leaves_its_agents(store: Store) -> None:
    human = block(tags=("x",))
    agent = await create(store, new=(human, block("persona")))
    assert await store.write(lambda: blocks.delete_block(human.id)) == [agent.id]
    assert [each.label for each in await store.read(lambda: blocks.blocks_of_agent(agent.id))] == ["persona"]
    with pytest.raises(NotFound):
        await store.read(lambda: blocks.block_by_id(human.id))
