"""What every store must do with vectors: keep them, find the nearest, and fuse them with what the words find."""

import math
import random
from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from perdure.core.agents import Agent, AgentBundle
from perdure.core.archives import Archive, Passage, Vector
from perdure.core.ids import new_id
from perdure.core.messages import Message, TextPart, ToolCall
from perdure.store import agents, archives, embedding, messages, passages
from perdure.store.base import Query, Store, Tx
from perdure.store.embedding import Waiting
from perdure.store.message_reads import delete_messages
from perdure.store.message_search import MessageSearch, index_new_messages, search_messages
from perdure.store.passage_search import PassageSearch, VectorQuery, search_passages
from perdure.store.pgvector import PgVectors, prepare
from perdure.store.sign_index import Near, SignIndex, Vectors

DIM = 48


def unit(*values: float) -> Vector:
    padded = [*values, *[0.0] * (DIM - len(values))]
    length = math.sqrt(sum(value * value for value in padded))
    return array("f", [value / length for value in padded])


def at_random(rng: random.Random) -> Vector:
    return unit(*(rng.gauss(0, 1) for _ in range(DIM)))


@pytest.fixture(params=["plain", "numpy"])
async def vectors(request: pytest.FixtureRequest, store: Store) -> AsyncIterator[Vectors]:
    if store.dialect == "postgres":
        if request.param == "numpy":
            pytest.skip("PostgreSQL compares by itself")
        if (reason := await prepare(store)) is not None:
            pytest.skip(reason)
        yield PgVectors()
        return
    if request.param == "numpy":
        pytest.importorskip("numpy", minversion="2.0")
    yield SignIndex(use_numpy=request.param == "numpy")


async def near(store: Store, vectors: Vectors, scopes: Sequence[str], query: Vector, **how: Any) -> list[Near]:
    asked = {"limit": 10, **how}
    return await store.scan(lambda: vectors.nearest(scopes, query, **asked))


async def put(store: Store, vectors: Vectors, scope: str, given: Sequence[tuple[int, Vector]]) -> None:
    await store.write(lambda: vectors.put(scope, given))


async def test_the_nearest_come_first_with_their_cosine(store: Store, vectors: Vectors) -> None:
    await put(store, vectors, "a", [(1, unit(1, 0)), (2, unit(1, 1)), (3, unit(0, 1)), (4, unit(-1, 0))])
    await put(store, vectors, "b", [(5, unit(1, 0.1))])
    found = await near(store, vectors, ["a"], unit(1, 0))
    assert [each.pos for each in found] == [1, 2, 3, 4]
    assert [each.similarity for each in found] == pytest.approx([1, math.sqrt(0.5), 0, -1], abs=1e-6)
    assert [each.pos for each in await near(store, vectors, ["a", "b"], unit(1, 0), limit=2)] == [1, 5]
    assert [each.pos for each in await near(store, vectors, ["a"], unit(1, 0), among={3, 4, 99})] == [3, 4]
    assert await near(store, vectors, ["none"], unit(1, 0)) == []
    assert await near(store, vectors, [], unit(1, 0)) == []


async def test_what_comes_goes_and_changes_is_seen_by_the_next_search(store: Store, vectors: Vectors) -> None:
    query = unit(1, 0)
    await put(store, vectors, "a", [(1, unit(1, 1))])
    assert [each.pos for each in await near(store, vectors, ["a"], query)] == [1]
    await put(store, vectors, "a", [(2, unit(1, 0))])
    assert [each.pos for each in await near(store, vectors, ["a"], query)] == [2, 1]
    await put(store, vectors, "a", [(2, unit(-1, 0))])
    assert [each.pos for each in await near(store, vectors, ["a"], query)] == [1, 2]
    await run(store, "delete_vector", scope="a", pos=1)
    assert [each.pos for each in await near(store, vectors, ["a"], query)] == [2]


async def run(store: Store, name: str, **params: Any) -> None:
    def tx() -> Tx[None]:
        yield Query(name, params)

    await store.write(tx)


async def test_thousands_are_searched_as_if_one_by_one(store: Store, vectors: Vectors) -> None:
    """More than a first look keeps: what a comparison with each would find is found, but for a rare miss."""
    rng = random.Random(7)
    centres = [at_random(rng) for _ in range(40)]
    kept = [(at, unit(*(c + rng.gauss(0, 0.1) for c in centres[at % len(centres)]))) for at in range(1, 3001)]
    await put(store, vectors, "big", kept)
    hits = 0
    for centre in centres[:20]:
        exact = sorted(kept, key=lambda each: -sum(a * b for a, b in zip(centre, each[1], strict=True)))[:10]
        found = await near(store, vectors, ["big"], centre)
        assert [each.similarity for each in found] == sorted((each.similarity for each in found), reverse=True)
        hits += len({each.pos for each in found} & {pos for pos, _ in exact})
    assert hits >= 195
    among = set(range(1, 3001, 2))
    found = await near(store, vectors, ["big"], centres[0], among=among)
    assert len(found) == 10 and {each.pos for each in found} <= among


async def test_codes_of_vectors_that_are_gone_do_not_crowd_out_others(store: Store, vectors: Vectors) -> None:
    await put(store, vectors, "a", [(pos, unit(1, pos / 1e6)) for pos in range(1, 2001)])
    query = unit(1, 0)
    assert len(await near(store, vectors, ["a"], query)) == 10
    await run(store, "delete_scope_vectors", id="a")
    await put(store, vectors, "a", [(9000, unit(1, 5))])
    await near(store, vectors, ["a"], query)
    assert [each.pos for each in await near(store, vectors, ["a"], query)] == [9000]


async def new_archive(store: Store, *texts: str, **fields: Any) -> Archive:
    archive = Archive(id=new_id("archive"), name="shelf", **fields)
    await store.write(lambda: archives.create_archive(archive))
    given = [
        Passage(id=new_id("passage"), text=text, tags=(text.split()[0],), created_us=1 + at)
        for at, text in enumerate(texts)
    ]
    await store.write(lambda: passages.insert_passages(archive.id, given, 100))
    return archive


MEANINGS = {"dog": unit(1), "puppy": unit(1, 0.2), "cash": unit(0, 1), "salary": unit(0.1, 1), "rain": unit(0, 0, 1)}


def meaning(text: str) -> Vector:
    return next(vector for word, vector in MEANINGS.items() if word in text)


async def embed(store: Store, vectors: Vectors, archive_id: str) -> list[Waiting]:
    waiting = await store.scan(lambda: embedding.passages_to_embed(archive_id, 100))
    done = [(each, meaning(each.text)) for each in waiting]
    await store.write(lambda: embedding.embedded(vectors, archive_id, "p/m", done))
    return waiting


async def test_words_and_vectors_are_fused(store: Store, vectors: Vectors) -> None:
    archive = await new_archive(store, "the puppy sleeps", "a dog barks", "cash is king", "rain falls")
    await embed(store, vectors, archive.id)
    query = VectorQuery((archive.id,), unit(1), 0.5)

    async def found(text: str, least: float = 0.5, **more: Any) -> list[tuple[str, int | None, int | None]]:
        wanted = PassageSearch(query=text, archive_ids=(archive.id,), **more)
        asked = VectorQuery(query.scopes, query.vector, least)
        hits = await store.scan(lambda: search_passages(wanted, vectors, [asked]))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        return [(hit.passage.text, hit.words_rank, hit.vector_rank) for hit in hits]

    assert await found("dog") == [("a dog barks", 1, 1), ("the puppy sleeps", None, 2)]
    assert await found("king") == [("cash is king", 1, None), ("a dog barks", None, 1), ("the puppy sleeps", None, 2)]
    assert len(await found("nothing", -1.0)) == 4
    assert await found("dog", tags=("the",)) == [("the puppy sleeps", None, 1)]
    assert await found("dog", from_us=2, to_us=2) == [("a dog barks", 1, 1)]
    assert [text for text, *_ in await found("dog", limit=1)] == ["a dog barks"]


async def test_what_waits_is_embedded_once_and_for_the_text_it_was_read_with(store: Store, vectors: Vectors) -> None:
    archive = await new_archive(store, "dog one", "dog two", "dog three")
    (pending,) = await store.scan(embedding.archives_to_embed)
    assert (pending.archive_id, pending.embedding, pending.dim, pending.made) == (archive.id, None, None, False)
    assert await store.read(lambda: embedding.waits_for_vectors([archive.id]))
    waiting = await store.scan(lambda: embedding.passages_to_embed(archive.id, 100))
    first, second, third = waiting
    pos, before = await store.read(lambda: passages.passage_of_archives(first.passage_id, [archive.id]))
    after = Passage(**{**{f: getattr(before, f) for f in before.__struct_fields__}, "text": "rain"})
    await store.write(lambda: passages.replace_passage(pos, before, after, 200))
    await store.write(lambda: passages.delete_passage([archive.id], second.passage_id, 200))
    done = [(first, unit(1)), (second, unit(1)), (third, None)]
    await store.write(lambda: embedding.embedded(vectors, archive.id, "p/m", done))
    assert await near(store, vectors, [archive.id], unit(1)) == []
    assert [each.text for each in await embed(store, vectors, archive.id)] == ["rain"]
    assert not await store.read(lambda: embedding.waits_for_vectors([archive.id]))
    assert await store.scan(embedding.archives_to_embed) == []
    kept = await store.read(lambda: archives.archive_by_id(archive.id))
    assert (kept.embedding, kept.embedding_dim) == ("p/m", DIM)
    assert await store.scan(lambda: embedding.models_of(None)) == {"p/m": [archive.id]}
    assert await store.scan(lambda: embedding.models_of([archive.id, "other"])) == {"p/m": [archive.id]}


async def test_a_changed_text_waits_again_and_a_changed_tag_does_not(store: Store, vectors: Vectors) -> None:
    archive = await new_archive(store, "dog one")
    (was,) = await embed(store, vectors, archive.id)
    pos, before = await store.read(lambda: passages.passage_of_archives(was.passage_id, [archive.id]))
    fields = {f: getattr(before, f) for f in before.__struct_fields__}
    await store.write(lambda: passages.replace_passage(pos, before, Passage(**{**fields, "tags": ("t",)}), 2))
    assert not await store.read(lambda: embedding.waits_for_vectors([archive.id]))
    assert len(await near(store, vectors, [archive.id], unit(1))) == 1
    await store.write(lambda: passages.replace_passage(pos, before, Passage(**{**fields, "text": "cash"}), 3))
    assert await near(store, vectors, [archive.id], unit(1)) == []
    await embed(store, vectors, archive.id)
    assert (await near(store, vectors, [archive.id], unit(0, 1)))[0].similarity == pytest.approx(1)


async def test_vectors_go_with_their_passage_and_archive(store: Store, vectors: Vectors) -> None:
    archive = await new_archive(store, "dog one", "dog two")
    first, _ = await embed(store, vectors, archive.id)
    await store.write(lambda: passages.delete_passage([archive.id], first.passage_id, 1))
    assert len(await near(store, vectors, [archive.id], unit(1))) == 1
    await store.write(lambda: archives.delete_archive(archive.id, 1))
    assert await near(store, vectors, [archive.id], unit(1)) == []


async def spoken(store: Store, *said: Message | str) -> Agent:
    agent = Agent(id=new_id("agent"), name="a", created_us=1, updated_us=1)

    def message(role: Any, text: str, **fields: Any) -> Message:
        return Message(
            id=new_id("message"),
            role=role,
            content=(TextPart(text),),
            agent_id=agent.id,
            conversation_id=agent.id,
            **{"created_us": 1, **fields},
        )

    system = message("system", "dog in the system prompt")
    bundle = AgentBundle(agent=agent)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=set(), system_message=system))
    searched = ToolCall("call-1", "conversation_search", '{"query": "dog"}')
    given = [
        message("user", "my dog is ill", created_us=10),
        message("assistant", "a sick puppy", created_us=20),
        message("assistant", "dog searched", tool_calls=(searched,), created_us=30),
        message("tool", "dog returned", created_us=40),
        message("user", "dog hidden", hidden=True, created_us=50),
        message("user", "the salary", created_us=60),
    ]
    await store.write(lambda: messages.insert_messages(tuple(given)))
    return agent


async def embed_messages(store: Store, vectors: Vectors, agent_id: str, handle: str = "p/m") -> list[str]:
    rows = await store.scan(lambda: embedding.messages_to_embed(agent_id, handle, 100))
    done = [(pos, meaning(text)) for pos, text in rows if text]
    if rows:
        upto = rows[-1][0]
        await store.write(lambda: embedding.messages_embedded(vectors, agent_id, handle, upto, done))
    return [text for _, text in rows if text]


async def test_messages_are_found_by_words_and_by_meaning(store: Store, vectors: Vectors) -> None:
    agent = await spoken(store)
    while await store.write(index_new_messages):
        pass
    assert "the salary" in await embed_messages(store, vectors, agent.id)
    assert [t for t in await embed_messages(store, vectors, agent.id) if store.dialect == "sqlite"] == []
    query = VectorQuery((agent.id,), unit(1), 0.5)

    async def found(text: str | None, *, with_vectors: bool = True, words: bool = True, **by: Any) -> list[str]:
        wanted = MessageSearch(query=text, **{"agent_id": agent.id, **by})
        asked = query if with_vectors else None
        hits = await store.scan(lambda: search_messages(wanted, vectors, asked, words=words))
        return [hit.message.text for hit in hits]

    assert await found("dog") == ["my dog is ill", "a sick puppy"]
    assert await found("dog", with_vectors=False) == ["my dog is ill"]
    assert await found("ill", words=False) == ["my dog is ill", "a sick puppy"]
    assert await found("dog", roles=("assistant",)) == ["a sick puppy"]
    assert await found("dog", from_us=15) == ["a sick puppy"]
    assert await found("dog", to_us=15) == ["my dog is ill"]
    assert await found("dog", agent_id=None) == ["my dog is ill", "a sick puppy"]
    assert await found("dog", agent_id=new_id("agent"), with_vectors=False) == []
    assert await found("dog", conversation_id="conv-x") == []
    assert await found(None, with_vectors=False) == ["the salary", "a sick puppy", "my dog is ill"]
    assert await found(None, with_vectors=False, limit=1) == ["the salary"]
    assert await found("...", with_vectors=False) == []


async def test_messages_that_are_deleted_are_not_found_and_new_ones_are(store: Store, vectors: Vectors) -> None:
    """SQLite hands out the positions of deleted messages again: the index must follow."""
    agent = await spoken(store)
    view = await store.read(lambda: agents.agent_view(agent.id))

    async def index() -> None:
        while await store.write(index_new_messages):
            pass
        await embed_messages(store, vectors, agent.id)

    async def found(text: str) -> list[str]:
        wanted = MessageSearch(query=text, agent_id=agent.id)
        query = VectorQuery((agent.id,), meaning(text), 0.5)
        return [hit.message.text for hit in await store.scan(lambda: search_messages(wanted, vectors, query))]

    await index()
    await store.write(lambda: delete_messages(agent.id, but=view.message_ids[0]))
    assert await found("dog") == []
    said = Message(
        id=new_id("message"),
        role="user",
        content=(TextPart("rain today"),),
        agent_id=agent.id,
        conversation_id=agent.id,
        created_us=70,
    )
    await store.write(lambda: messages.insert_messages((said,)))
    await index()
    assert await found("rain") == ["rain today"]
    assert await found("dog") == []


async def test_another_models_message_vectors_give_way(store: Store, vectors: Vectors) -> None:
    agent = await spoken(store)
    await embed_messages(store, vectors, agent.id, "p/old")
    assert await store.scan(lambda: embedding.message_scopes(agent.id, "p/old")) == [agent.id]
    assert len(await embed_messages(store, vectors, agent.id, "p/new")) == 5
    for handle, scopes in (("p/old", []), ("p/new", [agent.id])):
        for agent_id in (agent.id, None):
            asked = embedding.message_scopes
            assert await store.scan(lambda a=agent_id, h=handle, f=asked: f(a, h)) == scopes
    await store.write(lambda: agents.delete_agent(agent.id))
    assert await near(store, vectors, [agent.id], unit(1)) == []
    assert await store.scan(lambda: embedding.message_scopes(None, "p/new")) == []
