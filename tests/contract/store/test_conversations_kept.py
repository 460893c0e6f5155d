"""What every store must do with conversations: kept, listed, changed, forked, deleted, and the blocks that are their own."""

import msgspec
import pytest

from perdure.agents.conversations import ConversationSpec, create_conversation
from perdure.agents.fork import fork_conversation
from perdure.core.agents import ModelSettings
from perdure.core.conversations import Conversation, ConversationSettings
from perdure.core.errors import NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolCall, ToolReturn
from perdure.store import agents, blocks, message_reads
from perdure.store.base import Query, Store, Tx
from perdure.store.conversation_edits import change_conversation, delete_conversation
from perdure.store.conversation_reads import (
    ConversationFilter,
    ConversationView,
    conversation_by_id,
    conversation_view,
    list_conversations,
)
from perdure.store.conversations import conversation_state, set_context
from perdure.store.listing import Page
from perdure.store.message_search import MessageSearch, index_new_messages, search_messages
from perdure.store.messages import insert_messages, next_position
from perdure.store.private_blocks import (
    add_private_blocks,
    conversation_bundle,
    private_blocks,
    remove_private_block,
)
from tests.contract.store.test_agents_kept import block, create
from tests.doubles.fixed_registry import FixedRegistry

REGISTRY = FixedRegistry()


async def make(store: Store, agent_id: str, **fields: object) -> Conversation:
    spec = msgspec.convert({"agent_id": agent_id, **fields}, ConversationSpec)
    return (await create_conversation(store, REGISTRY, spec)).conversation  # type: ignore[arg-type]


async def say(store: Store, conversation: Conversation, *texts: str) -> list[str]:
    said = tuple(
        Message(
            id=new_id("message"),
            role="user",
            created_us=now_us(),
            content=(TextPart(text),),
            agent_id=conversation.agent_id,
            conversation_id=conversation.id,
        )
        for text in texts
    )
    await store.write(lambda: insert_messages(said))
    return [message.id for message in said]


async def texts(store: Store, **wanted: object) -> list[str]:
    found = await store.scan(lambda: message_reads.list_messages(**wanted))  # type: ignore[arg-type]
    return [message.text for message in found if message.role != "system"]


async def fork(store: Store, source_id: str, **wanted: object) -> ConversationView:
    return await store.write(lambda: fork_conversation(source_id, **wanted))  # type: ignore[arg-type]


async def listed(store: Store, wanted: ConversationFilter, **page: object) -> list[str]:
    views = await store.scan(lambda: list_conversations(wanted, Page(**page)))  # type: ignore[arg-type]
    return [view.conversation.id for view in views]


async def test_a_conversation_comes_back_as_it_was_made(store: Store) -> None:
    agent = await create(store, new=(block("human"), block("notes")))
    settings = ModelSettings(temperature=0.5, raw={"odd": {"kept": True}})
    spec = ConversationSpec(
        agent_id=agent.id,
        summary="s",
        description="d",
        isolated_block_labels=("notes", "human", "notes"),
        model_settings=settings,
        memory_rendering="append",
        hidden=True,
    )
    made = await create_conversation(store, REGISTRY, spec)  # type: ignore[arg-type]
    assert made == await store.read(lambda: conversation_view(made.conversation.id))
    found = made.conversation
    assert found.settings == ConversationSettings(
        description="d", model_settings=settings, isolated=("notes", "human"), memory_rendering="append"
    )
    assert (found.summary, found.hidden, found.archived_us, found.last_message_us) == ("s", True, None, None)
    own = await store.read(lambda: private_blocks(found.id))
    assert [(each.label, each.id) for each in own] == list(zip(("human", "notes"), made.private_block_ids, strict=True))
    state = await store.read(lambda: conversation_state(found.id))
    assert (state.head_ids, state.segment_id, state.break_cause) == (made.message_ids, None, None)


async def test_each_change_is_kept_and_the_deleted_are_gone(store: Store) -> None:
    agent = await create(store)
    made = await make(store, agent.id)
    changed = msgspec.structs.replace(
        made,
        summary="later",
        hidden=True,
        archived_us=5,
        last_message_us=7,
        updated_us=9,
        settings=ConversationSettings(model="a/b", context_window=12),
    )
    await store.write(lambda: change_conversation(changed))
    assert await store.read(lambda: conversation_by_id(made.id)) == changed
    await store.write(lambda: delete_conversation(made.id, 1))
    for gone in (
        lambda: conversation_by_id(made.id),
        lambda: conversation_state(made.id),
        lambda: change_conversation(made),
        lambda: delete_conversation(made.id, 2),
        lambda: fork_conversation(made.id),
    ):
        with pytest.raises(NotFound, match="Conversation"):
            await store.write(gone)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await store.write(lambda: delete_conversation(agent.id, 1))
    assert (await store.read(lambda: conversation_by_id(agent.id))).id == agent.id


async def test_listings_filter_order_and_page(store: Store) -> None:
    agent, other = await create(store), await create(store)
    made = [await make(store, agent.id, summary=summary) for summary in ("Tea", "rain", None)]
    stranger = await make(store, other.id, summary="tea elsewhere")
    a, b, c = (each.id for each in made)
    for each, said, archived, hidden in (
        (made[0], 30, None, False),
        (made[1], 20, 1, False),
        (made[2], None, None, True),
    ):
        now = msgspec.structs.replace(each, last_message_us=said, archived_us=archived, hidden=hidden)
        await store.write(lambda now=now: change_conversation(now))
    everyone = ConversationFilter(with_hidden=True)
    assert await listed(store, everyone) == [stranger.id, c, b, a]
    assert await listed(store, everyone, descending=False, limit=2, after=a) == [b, c]
    assert await listed(store, everyone, before=a, limit=2) == [c, b]
    assert await listed(store, ConversationFilter(agent_id=agent.id)) == [b, a]
    assert await listed(store, ConversationFilter(agent_id=agent.id, archived=False)) == [a]
    assert await listed(store, ConversationFilter(agent_id=agent.id, archived=True)) == [b]
    assert await listed(store, ConversationFilter(summary_search="tea")) == [stranger.id, a]
    mine = ConversationFilter(agent_id=agent.id, with_hidden=True)
    assert await listed(store, mine, order_by="last_message_us") == [a, b, c]
    assert await listed(store, mine, order_by="last_message_us", after=b) == [c]
    assert await listed(store, mine, order_by="last_message_us", descending=False) == [c, b, a]
    with pytest.raises(NotFound):
        await listed(store, mine, after="conv-unknown")


async def test_isolated_blocks_take_the_place_of_the_agents(store: Store) -> None:
    agent = await create(store, new=(block("human", value="Ada"), block("notes"), block("persona")))
    made = await make(store, agent.id, isolated_block_labels=["human", "notes"])

    async def seen() -> list[tuple[str, str]]:
        def tx() -> Tx[list[tuple[str, str]]]:
            bundle = yield from conversation_bundle((yield from conversation_state(made.id)))
            return [(each.label, each.value) for each in bundle.blocks]

        return await store.read(tx)

    assert await seen() == [("human", "Ada"), ("notes", "v"), ("persona", "v")]
    human, notes = await store.read(lambda: private_blocks(made.id))
    await store.write(lambda: blocks.replace_block(msgspec.structs.replace(human, value="Bob")))
    await store.write(lambda: blocks.replace_block(msgspec.structs.replace(notes, label="log")))
    assert await seen() == [("human", "Bob"), ("persona", "v"), ("log", "v")]
    assert await store.write(lambda: remove_private_block(made.id, human.id))
    assert not await store.write(lambda: remove_private_block(made.id, human.id))
    assert await seen() == [("persona", "v"), ("log", "v")]
    await store.write(lambda: add_private_blocks(made.id, (block("human", value="Eve"),)))
    assert await seen() == [("human", "Eve"), ("persona", "v"), ("log", "v")]
    await store.write(lambda: blocks.delete_block(notes.id))
    assert await seen() == [("human", "Eve"), ("persona", "v")]
    assert {each.label for each in (await store.read(lambda: agents.agent_bundle(agent.id))).blocks} == {
        "human",
        "notes",
        "persona",
    }


async def test_a_copy_that_was_attached_to_an_agent_stays(store: Store) -> None:
    agent, other = await create(store, new=(block("human"),)), await create(store)
    made = await make(store, agent.id, isolated_block_labels=["human"])
    (copy,) = await store.read(lambda: private_blocks(made.id))
    await store.write(lambda: blocks.attach_block(other.id, copy))
    await store.write(lambda: delete_conversation(made.id, 1))
    assert (await store.read(lambda: blocks.block_by_id(copy.id))).id == copy.id
    assert await store.read(lambda: private_blocks(made.id)) == ()


async def test_forks_share_messages_in_order_and_page_through_them(store: Store) -> None:
    agent = await create(store)
    source = await make(store, agent.id)
    first = await say(store, source, "a", "b", "c")
    once = (await fork(store, source.id, message_id=first[1])).conversation
    await say(store, source, "d")
    second = await say(store, once, "e")
    twice = await fork(store, once.id)
    await say(store, twice.conversation, "f")
    assert await texts(store, conversation_id=source.id) == ["a", "b", "c", "d"]
    assert await texts(store, conversation_id=once.id) == ["a", "b", "e"]
    assert await texts(store, conversation_id=twice.conversation.id) == ["a", "b", "e", "f"]
    assert twice.message_ids[1:] == (first[0], first[1], second[0])
    own = twice.conversation.id
    assert await texts(store, conversation_id=own, after=first[0], newest=False, limit=2) == ["b", "e"]
    assert await texts(store, conversation_id=own, before=second[0], limit=1) == ["b"]
    whole = await store.scan(lambda: message_reads.list_messages(conversation_id=own))
    assert [message.role for message in whole] == ["system"] + ["user"] * 4
    assert whole[0].id == twice.message_ids[0]
    assert await texts(store, conversation_id=own, agent_id="agent-other") == []
    # of all that was said with the agent, each message comes once
    assert await texts(store, agent_id=agent.id) == ["a", "b", "c", "d", "e", "f"]
    state = await store.read(lambda: conversation_state(once.id))
    assert state.break_cause == f"fork: from {source.id} at {first[1]}"
    assert once.settings.forked_from == (source.id, first[1])


async def test_a_fork_from_before_a_compaction_goes_back_to_the_context_of_then(store: Store) -> None:
    agent = await create(store)
    source = await make(store, agent.id)
    view = await store.read(lambda: conversation_view(source.id))
    first = await say(store, source, "a", "b")
    summary = Message(
        id=new_id("message"),
        role="summary",
        created_us=now_us(),
        content=(TextPart("summed up"),),
        agent_id=agent.id,
        conversation_id=source.id,
    )

    def compact() -> Tx[None]:
        yield from insert_messages((summary,))
        yield from set_context(
            source.id, (view.message_ids[0], summary.id), cause="compaction: x", compiled_revision=1, now=1
        )

    await store.write(compact)
    later = await say(store, source, "c")
    now = await fork(store, source.id)
    assert now.message_ids[1:] == (summary.id, later[0])
    before = await fork(store, source.id, message_id=first[0])
    assert before.message_ids[1:] == (first[0],)
    with pytest.raises(NotFound, match="no message"):
        await fork(store, source.id, message_id=new_id("message"))


async def test_a_fork_ends_where_every_call_has_its_return(store: Store) -> None:
    agent = await create(store)
    source = await make(store, agent.id)
    asked = await say(store, source, "a")

    def message(role: str, **parts: object) -> Message:
        fields = {"id": new_id("message"), "role": role, "created_us": now_us(), "agent_id": agent.id}
        return Message(**fields, conversation_id=source.id, **parts)  # type: ignore[arg-type]

    called = message("assistant", tool_calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "{}")))
    came = message("tool", tool_returns=tuple(ToolReturn(n, "f", "success", "x") for n in ("c1", "c2")))
    waits = message("approval", tool_calls=(ToolCall("c3", "f", "{}"),))
    await store.write(lambda: insert_messages((called, came, waits)))
    for message_id, wanted in (
        (called.id, (*asked, called.id, came.id)),
        (waits.id, (*asked, called.id, came.id)),
        (None, (*asked, called.id, came.id)),
        (asked[0], tuple(asked)),
    ):
        assert (await fork(store, source.id, message_id=message_id)).message_ids[1:] == wanted


async def test_what_a_fork_shares_outlives_a_reset_of_its_source(store: Store) -> None:
    agent = await create(store)
    own = await store.read(lambda: conversation_by_id(agent.id))
    await say(store, own, "a", "b")
    shared = (await say(store, own, "c"))[0]
    forks = [(await fork(store, agent.id, message_id=shared)).conversation.id for _ in range(2)]
    await say(store, own, "d")
    system_id = (await store.read(lambda: conversation_view(agent.id))).message_ids[0]
    await store.write(lambda: message_reads.delete_messages(agent.id, but=system_id))
    assert await texts(store, conversation_id=agent.id) == []
    for fork_id in forks:
        assert await texts(store, conversation_id=fork_id) == ["a", "b", "c"]
    assert await texts(store, agent_id=agent.id) == ["a", "b", "c"]


async def test_messages_of_deleted_conversations_are_not_found(store: Store) -> None:
    agent = await create(store)
    kept, deleted = await make(store, agent.id), await make(store, agent.id)
    await say(store, kept, "zebra kept")
    await say(store, deleted, "zebra deleted")
    await store.write(lambda: delete_conversation(deleted.id, 1))
    assert await texts(store, agent_id=agent.id) == ["zebra kept"]
    assert await texts(store) == ["zebra kept"]
    forked = await fork(store, kept.id)
    while await store.write(index_new_messages):
        pass
    for query in ("zebra", None):
        for place in (None, kept.id, forked.conversation.id):
            wanted = MessageSearch(query=query, agent_id=agent.id, conversation_id=place)
            found = await store.scan(lambda wanted=wanted: search_messages(wanted))
            assert [each.message.text for each in found] == ["zebra kept"]


async def test_an_agent_takes_its_conversations_with_it(store: Store) -> None:
    agent, other = await create(store, new=(block("human"),)), await create(store, new=(block("human"),))
    made = await make(store, agent.id, isolated_block_labels=["human"])
    beside = await make(store, other.id, isolated_block_labels=["human"])
    await say(store, made, "a")
    forked = await fork(store, made.id)
    before = await store.read(blocks.count_blocks)
    await store.write(lambda: agents.delete_agent(agent.id))
    assert await store.read(blocks.count_blocks) == before - 2  # the conversation's copy and its fork's
    for gone in (made.id, forked.conversation.id):
        with pytest.raises(NotFound):
            await store.read(lambda gone=gone: conversation_by_id(gone))
        assert not (await store.read(lambda gone=gone: _shows(gone)))
    assert len(await store.read(lambda: private_blocks(beside.id))) == 1


def _shows(conversation_id: str) -> Tx[bool]:
    return bool((yield Query("shows_shared", {"conversation_id": conversation_id})))


async def test_positions_go_on_after_a_fork(store: Store) -> None:
    agent = await create(store)
    source = await make(store, agent.id)
    await say(store, source, "a")
    forked = await fork(store, source.id)
    state = await store.read(lambda: conversation_state(forked.conversation.id))
    assert state.tail_from == await store.read(next_position)
