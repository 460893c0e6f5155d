"""What every store must do with archives, their passages, and searches by words."""

from typing import Any

import msgspec
import pytest

from perdure.core.agents import Agent, AgentBundle
from perdure.core.archives import Archive, Passage
from perdure.core.errors import NotFound
from perdure.core.ids import new_id
from perdure.core.messages import Message, TextPart
from perdure.store import agents, archives, passages
from perdure.store.base import Store, Tx
from perdure.store.listing import Page
from perdure.store.passage_search import PassageSearch, search_passages

EVERYTHING = Page(limit=None, descending=False)


async def new_agent(store: Store, **fields: Any) -> Agent:
    agent = Agent(id=new_id("agent"), created_us=1, updated_us=1, **{"name": "Ada", **fields})
    said = (TextPart("compiled"),)
    system = Message(
        id=new_id("message"), role="system", created_us=1, content=said, agent_id=agent.id, conversation_id=agent.id
    )
    bundle = AgentBundle(agent=agent)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=set(), system_message=system))
    return agent


async def new_archive(store: Store, name: str = "shelf", **fields: Any) -> Archive:
    archive = Archive(id=new_id("archive"), name=name, **fields)
    await store.write(lambda: archives.create_archive(archive))
    return archive


def passage(text: str, *tags: str, at: int = 0) -> Passage:
    return Passage(id=new_id("passage"), text=text, tags=tags, created_us=at)


async def filed(store: Store, archive_id: str, *given: Passage) -> list[Passage]:
    return await store.write(lambda: passages.insert_passages(archive_id, given, 100))


async def found(store: Store, *archive_ids: str, **wanted: Any) -> list[str]:
    asked = PassageSearch(archive_ids=archive_ids or None, **wanted)
    return [hit.passage.text for hit in await store.scan(lambda: search_passages(asked))]


async def revision(store: Store, agent: Agent) -> int:
    return (await store.read(lambda: agents.agent_by_id(agent.id))).revision


async def test_an_archive_comes_back_as_it_was_stored(store: Store) -> None:
    archive = await new_archive(
        store, description="d", metadata={"k": [1]}, embedding="p/m", created_us=3, updated_us=4
    )
    assert await store.read(lambda: archives.archive_by_id(archive.id)) == archive
    changed = msgspec.structs.replace(archive, name="other", description=None, metadata={}, updated_us=5)
    await store.write(lambda: archives.replace_archive(changed))
    assert await store.read(lambda: archives.archive_by_id(archive.id)) == changed
    with pytest.raises(NotFound):
        await store.read(lambda: archives.archive_by_id(new_id("archive")))


async def test_an_embedding_model_is_decided_once(store: Store) -> None:
    archive = await new_archive(store)
    for embedding, dim in (("p/first", None), ("p/second", 3), ("p/third", 4)):
        await store.write(lambda e=embedding, d=dim: archives.decide_embedding(archive.id, e, d))
    kept = await store.read(lambda: archives.archive_by_id(archive.id))
    assert (kept.embedding, kept.embedding_dim) == ("p/second", 3)


async def test_archives_are_listed_by_name_by_agent_and_page(store: Store) -> None:
    agent = await new_agent(store)
    made = [await new_archive(store, name, created_us=at) for at, name in enumerate(("a", "b", "a"))]
    await store.write(lambda: archives.attach_archive(agent.id, made[2].id))

    async def listed(page: Page = EVERYTHING, **by: Any) -> list[str]:
        return [each.id for each in await store.scan(lambda: archives.list_archives(page, **by))]

    ids = [archive.id for archive in made]
    assert await listed() == ids
    assert await listed(name="a") == [ids[0], ids[2]]
    assert await listed(agent_id=agent.id) == [ids[2]]
    assert await listed(Page(after=ids[0], descending=False)) == ids[1:]
    assert await listed(Page(after=ids[2])) == ids[1::-1]


async def test_the_first_passage_makes_the_agents_archive(store: Store) -> None:
    agent = await new_agent(store, embedding="p/m")
    await store.write(lambda: passages.file_for_agent(agent.id, [passage("one")], 7))
    await store.write(lambda: passages.file_for_agent(agent.id, [passage("two")], 8))
    (archive,) = await store.scan(lambda: archives.list_archives(EVERYTHING, agent_id=agent.id))
    assert (archive.name, archive.embedding, archive.made_for) == ("Ada's archive", "p/m", agent.id)
    assert (archive.created_us, archive.passages) == (7, 2)
    gone = new_id("agent")
    with pytest.raises(NotFound, match="Agent"):
        await store.write(lambda: passages.file_for_agent(gone, [passage("x")], 1))


async def test_agents_that_share_an_archive_see_what_each_other_filed(store: Store) -> None:
    first, second = await new_agent(store), await new_agent(store)
    shared = await new_archive(store)
    for agent in (first, second):
        assert await store.write(lambda agent=agent: archives.attach_archive(agent.id, shared.id))
    assert not await store.write(lambda: archives.attach_archive(first.id, shared.id))
    await store.write(lambda: passages.file_for_agent(first.id, [passage("from the first")], 1))
    listed = await store.scan(lambda: passages.list_passages_of_agent(second.id, EVERYTHING))
    assert [each.text for each in listed] == ["from the first"]
    assert await store.read(lambda: archives.filed_by(second.id)) == (1, ())
    assert await store.write(lambda: archives.detach_archive(second.id, shared.id))
    assert not await store.write(lambda: archives.detach_archive(second.id, shared.id))
    assert await store.scan(lambda: passages.list_passages_of_agent(second.id, EVERYTHING)) == []


async def test_an_agent_writes_to_its_own_archive_before_an_attached_one(store: Store) -> None:
    agent, shared = await new_agent(store), await new_archive(store)
    await store.write(lambda: passages.file_for_agent(agent.id, [passage("own")], 1))
    await store.write(lambda: archives.attach_archive(agent.id, shared.id))
    await store.write(lambda: passages.file_for_agent(agent.id, [passage("own again")], 2))
    assert await found(store, shared.id) == []
    assert await store.read(lambda: archives.filed_by(agent.id)) == (2, ())


async def test_deleting_an_agent_leaves_archives_that_others_have(store: Store) -> None:
    agent, other = await new_agent(store), await new_agent(store)
    await store.write(lambda: passages.file_for_agent(agent.id, [passage("own")], 1))
    (own,) = await store.read(lambda: archives.archive_ids_of_agent(agent.id))
    await store.write(lambda: archives.attach_archive(other.id, own))
    alone = await new_agent(store)
    await store.write(lambda: passages.file_for_agent(alone.id, [passage("alone")], 1))
    for each in (agent, alone):
        await store.write(lambda each=each: agents.delete_agent(each.id))
    assert await found(store) == ["own"]
    assert await store.read(lambda: archives.agents_of_archive(own)) == [other.id]
    assert (await store.read(lambda: archives.archive_by_id(own))).made_for is None


async def test_deleting_an_archive_takes_its_passages_and_nothing_else(store: Store) -> None:
    agent, gone, kept = await new_agent(store), await new_archive(store), await new_archive(store)
    await store.write(lambda: archives.attach_archive(agent.id, gone.id))
    await filed(store, gone.id, passage("fox", "t"))
    await filed(store, kept.id, passage("fox", "t"))
    assert await store.write(lambda: archives.delete_archive(gone.id, 1)) == [agent.id]
    assert await found(store, query="fox") == await found(store, tags=("t",)) == ["fox"]
    assert await store.read(lambda: archives.archive_ids_of_agent(agent.id)) == []
    with pytest.raises(NotFound):
        await store.write(lambda: archives.delete_archive(gone.id, 1))
    with pytest.raises(NotFound):
        await filed(store, gone.id, passage("too late"))


async def test_tags_are_told_to_agents_when_the_set_of_them_changes(store: Store) -> None:
    agent = await new_agent(store)
    before = await revision(store, agent)
    one, two = passage("1", "b", "b"), passage("2", "b", "a")
    await store.write(lambda: passages.file_for_agent(agent.id, [one], 1))
    assert await revision(store, agent) == before + 1
    await store.write(lambda: passages.file_for_agent(agent.id, [two, passage("3")], 1))
    assert await revision(store, agent) == before + 2
    assert await store.read(lambda: archives.filed_by(agent.id)) == (3, ("a", "b"))
    (archive_id,) = await store.read(lambda: archives.archive_ids_of_agent(agent.id))
    await store.write(lambda: passages.delete_passage([archive_id], one.id, 1))
    assert await revision(store, agent) == before + 2
    await store.write(lambda: passages.delete_passage([archive_id], two.id, 1))
    assert await revision(store, agent) == before + 3
    assert await store.read(lambda: archives.filed_by(agent.id)) == (1, ())


async def test_a_passage_is_changed_and_found_as_it_is_now(store: Store) -> None:
    archive = await new_archive(store)
    (old,) = await filed(store, archive.id, passage("the old fox", "x", "y"))
    pos, before = await store.read(lambda: passages.passage_of_archives(old.id, [archive.id]))
    assert before == old
    after = msgspec.structs.replace(old, text="a new hare", tags=("y", "z"), metadata={"m": 1}, updated_us=200)
    await store.write(lambda: passages.replace_passage(pos, before, after, 200))
    assert (await store.read(lambda: passages.passage_of_archives(old.id, [archive.id])))[1] == after
    assert await found(store, query="fox") == await found(store, tags=("x",)) == []
    assert await found(store, query="hare") == await found(store, tags=("z",)) == ["a new hare"]
    with pytest.raises(NotFound):
        await store.read(lambda: passages.passage_of_archives(old.id, [new_id("archive")]))


async def test_passages_are_found_by_words_best_first(store: Store) -> None:
    archive, other = await new_archive(store), await new_archive(store)
    texts = ["the quick fox", "a slow tortoise", "fox fox fox", 'quotes " and OR NOT *']
    given = [
        passage(text, *(("animal",) if "fox" in text else ("other", "slow")), at=at) for at, text in enumerate(texts, 1)
    ]
    await filed(store, archive.id, *given)
    assert await found(store, query="FOX") == ["fox fox fox", "the quick fox"]
    assert await found(store, query='" OR *') == [texts[3]]
    assert await found(store, query="...") == await found(store, query=" ") == []
    assert await found(store, tags=("slow", "other"), match_all_tags=True) == [texts[3], texts[1]]
    assert await found(store, tags=("animal", "other")) == texts[::-1]
    assert await found(store, query="fox slow", tags=("slow", "animal"), match_all_tags=True) == []
    assert await found(store, query="fox tortoise", tags=("slow",)) == ["a slow tortoise"]
    assert await found(store, query="fox", to_us=1) == ["the quick fox"]
    assert await found(store, from_us=2, to_us=3) == [texts[2], texts[1]]
    assert await found(store, other.id, query="fox") == await found(store, other.id) == []
    assert await found(store, archive.id, other.id, query="fox", limit=1) == ["fox fox fox"]
    await store.write(lambda: passages.delete_passage([archive.id], given[2].id, 1))
    assert await found(store, query="fox") == ["the quick fox"]
    with pytest.raises(NotFound):
        await store.write(lambda: passages.delete_passage([archive.id], given[2].id, 1))


async def test_passages_are_listed_by_time_a_page_at_a_time(store: Store) -> None:
    archive = await new_archive(store)
    kept = await filed(store, archive.id, *(passage(f"text {at}", at=at) for at in (3, 1, 2)))

    async def listed(**page: Any) -> list[str]:
        asked = Page(**page)
        return [p.text for p in await store.scan(lambda: passages.list_passages_of_archive(archive.id, asked))]

    assert await listed(descending=False) == ["text 1", "text 2", "text 3"]
    assert await listed(descending=False, after=kept[1].id, limit=1) == ["text 2"]
    assert await listed(descending=True, after=kept[0].id) == ["text 2", "text 1"]
    assert await listed(descending=False, before=kept[0].id, limit=1) == ["text 2"]


async def test_a_position_used_again_is_searchable_again(store: Store) -> None:
    """SQLite hands out the position of the last row again once that row is gone."""
    archive = await new_archive(store)
    for text in ("first", "second"):
        (kept,) = await filed(store, archive.id, passage(text))
        assert await found(store, query=text) == [text]
        await store.write(lambda kept=kept: passages.delete_passage([archive.id], kept.id, 1))
        assert await found(store) == []


async def test_common_words_are_left_out_only_beside_rarer_ones(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.store.full_text.MOST_RANKED", 3)
    archive = await new_archive(store)

    def tx() -> Tx[None]:
        texts = ["the fox", "the hare", "the cow", "THE end"]
        yield from passages.insert_passages(archive.id, [passage(text) for text in texts], 1)

    await store.write(tx)
    assert sorted(await found(store, query="the")) == ["THE end", "the cow", "the hare"], "the newest"
    assert await found(store, query="the fox") == ["the fox"]
