"""Passages and messages get their vectors in the background, and searches make do without."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from perdure.agents import archive as edits
from perdure.agents.archive import PassageSpec
from perdure.core.agents import Agent, AgentBundle
from perdure.core.archives import Archive
from perdure.core.errors import Invalid
from perdure.core.ids import new_id
from perdure.core.messages import Message, TextPart
from perdure.providers.configs import ProviderConfig
from perdure.providers.embeddings import NO_MODEL, Embeddings
from perdure.providers.http import Http
from perdure.providers.registry import Registry
from perdure.runs import indexer as indexing
from perdure.runs.indexer import Indexer
from perdure.runs.rounds import Rounds
from perdure.runs.search import Searcher
from perdure.store import agents, archives, messages
from perdure.store.message_search import MessageSearch
from perdure.store.passage_search import PassageSearch
from perdure.store.sign_index import SignIndex
from perdure.store.sqlite import SqliteStore
from tests.doubles.embeddings import DIM, EmbeddingDouble

HANDLE = "openai/text-embedding-test"


@pytest.fixture
def double() -> Iterator[EmbeddingDouble]:
    made = EmbeddingDouble()
    yield made
    made.close()


async def _no_wait(_: float) -> None:
    return None


class World:
    def __init__(self, store: SqliteStore, registry: Registry, default: str | None = HANDLE) -> None:
        self.store = store
        self.embeddings = Embeddings(registry, default=default)
        self.indexer = Indexer(store, self.embeddings, SignIndex())
        self.search = Searcher(store, self.embeddings, self.indexer)

    async def archive(self, *texts: str, embedding: str | None = None) -> Archive:
        archive = await self.store.write(
            lambda: edits.create("shelf", description=None, embedding=embedding, metadata={})
        )
        await self.file(archive.id, *texts)
        return archive

    async def file(self, archive_id: str, *texts: str) -> None:
        specs = [PassageSpec(text=text) for text in texts]
        await self.store.write(lambda: edits.file(archive_id, specs))
        self.search.filed()

    async def found(self, query: str, *archive_ids: str) -> tuple[list[str], str | None]:
        wanted = PassageSearch(query=query, archive_ids=archive_ids or None)
        outcome = await self.search.passages(wanted)
        return [hit.passage.text for hit in outcome.found], outcome.reason

    async def kept(self, archive_id: str) -> Archive:
        return await self.store.read(lambda: archives.archive_by_id(archive_id))

    async def agent(self, *said: str, embedding: str | None = None) -> Agent:
        agent = Agent(id=new_id("agent"), name="a", embedding=embedding, created_us=1, updated_us=1)
        given = [
            Message(
                id=new_id("message"),
                role="system" if at == 0 else "user",
                content=(TextPart(text),),
                agent_id=agent.id,
                conversation_id=agent.id,
                created_us=at,
            )
            for at, text in enumerate(("compiled", *said))
        ]
        bundle = AgentBundle(agent=agent)
        await self.store.write(lambda: agents.create_agent(bundle, new_blocks=set(), system_message=given[0]))
        await self.store.write(lambda: messages.insert_messages(tuple(given[1:])))
        return agent


@pytest.fixture
async def registry(double: EmbeddingDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registry]:
    monkeypatch.setattr("perdure.providers.embeddings.wordllama_info", lambda: None)
    config = ProviderConfig(name="openai", kind="openai", base_url=double.base_url, api_key="k")
    made = Registry([config], http=Http(sleep=_no_wait))
    yield made
    await made.close()


@pytest.fixture
async def world(store: SqliteStore, registry: Registry) -> AsyncIterator[World]:
    made = World(store, registry)
    made.indexer.start()
    yield made
    await made.indexer.stop()


async def test_what_was_just_filed_is_found_by_its_meaning(world: World) -> None:
    archive = await world.archive("the hound sleeps", "vehicle for sale")
    assert await world.found("dog", archive.id) == (["the hound sleeps", "vehicle for sale"], None)
    await world.file(archive.id, "puppy")
    assert (await world.found("dog", archive.id))[0][:2] == ["puppy", "the hound sleeps"]
    kept = await world.kept(archive.id)
    assert (kept.embedding, kept.embedding_dim) == (HANDLE, DIM)


async def test_what_waited_before_the_start_is_embedded(store: SqliteStore, registry: Registry) -> None:
    before = World(store, registry)
    archive = await before.archive(*(f"hound number {at}" for at in range(150)))
    after = World(store, registry)
    after.indexer.start()
    await after.indexer.catch_up(10)
    texts, reason = await after.found("dog", archive.id)
    assert len(texts) == 50 and reason is None
    await after.indexer.stop()


async def test_a_model_that_fails_leaves_the_words_and_is_asked_again(
    world: World, double: EmbeddingDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FIRST_PAUSE_S", 0.01)
    double.down = (500, {"error": {"message": "the model is not loaded"}})
    archive = await world.archive("the hound sleeps", "a dog barks")
    texts, reason = await world.found("dog", archive.id)
    assert texts == ["a dog barks"]
    assert reason is not None and "the model is not loaded" in reason
    double.down = None
    for _ in range(100):
        await world.indexer.catch_up(1)
        texts, reason = await world.found("dog", archive.id)
        if reason is None:
            break
    assert texts == ["a dog barks", "the hound sleeps"] and world.indexer.failures == {}


async def test_a_query_that_cannot_be_embedded_goes_by_words(world: World, double: EmbeddingDouble) -> None:
    archive = await world.archive("the hound sleeps", "a dog barks")
    await world.indexer.catch_up(5)
    double.down = (401, {"error": {"message": "bad key"}})
    texts, reason = await world.found("dog", archive.id)
    assert texts == ["a dog barks"] and reason is not None and "bad key" in reason


async def test_one_text_the_model_refuses_holds_up_no_other(world: World, double: EmbeddingDouble) -> None:
    double.most_chars = 100
    archive = await world.archive("hound one", "x" * 150, "hound two")
    await world.indexer.catch_up(5)
    assert (await world.found("dog", archive.id))[0][:2] == ["hound one", "hound two"]
    asked = len(double.embedded)
    await world.indexer.catch_up(5)
    assert len(double.embedded) == asked


async def test_archival_memory_uses_the_agents_own_model_and_the_servers_where_nobody_serves_that(
    world: World,
) -> None:
    """Agents carry handles of other servers; what they file must be searchable all the same."""
    for embedding, used in (("letta/letta-free", HANDLE), (HANDLE, HANDLE), (None, HANDLE)):
        agent = await world.agent(embedding=embedding)
        spec = PassageSpec(text="hound")
        await world.store.write(lambda agent=agent, spec=spec: edits.file_for_agent(agent.id, spec))
        outcome = await world.search.passages_of_agent(agent.id, PassageSearch(query="dog"))
        assert [hit.passage.text for hit in outcome.found] == ["hound"] and outcome.reason is None
        (archive_id,) = await world.store.read(lambda agent=agent: archives.archive_ids_of_agent(agent.id))
        assert (await world.kept(archive_id)).embedding == used


async def test_an_archive_made_for_a_model_keeps_to_it(world: World) -> None:
    archive = await world.archive("hound", embedding="nobody/model")
    texts, reason = await world.found("dog", archive.id)
    assert texts == [] and reason is not None and "nobody" in reason
    assert (await world.kept(archive.id)).embedding == "nobody/model"


async def test_archives_of_several_models_are_searched_together(
    store: SqliteStore, registry: Registry, double: EmbeddingDouble
) -> None:
    double.models = ("text-embedding-test", "text-embedding-other")
    world = World(store, registry)
    world.indexer.start()
    await world.archive("hound one", embedding=HANDLE)
    await world.archive("hound two", embedding="openai/text-embedding-other")
    await world.indexer.catch_up(5)
    texts, reason = await world.found("dog")
    assert sorted(texts) == ["hound one", "hound two"] and reason is None
    await world.indexer.stop()


async def test_without_a_model_words_are_all_there_is(store: SqliteStore, registry: Registry) -> None:
    world = World(store, registry, default="none")
    world.indexer.start()
    archive = await world.archive("a dog", "a hound")
    assert await world.found("dog", archive.id) == (["a dog"], NO_MODEL)
    agent = await world.agent("my dog", "my hound")
    outcome = await world.search.messages(MessageSearch(query="dog", agent_id=agent.id))
    assert ([hit.message.text for hit in outcome.found], outcome.reason) == (["my dog"], NO_MODEL)
    with pytest.raises(Invalid, match="vector is not possible"):
        await world.search.messages(MessageSearch(query="dog"), "vector")
    await world.indexer.stop()
    assert (await Searcher(store).passages(PassageSearch(query="dog"))).reason == NO_MODEL


async def test_an_archive_from_before_a_model_was_installed_gets_its_vectors(
    store: SqliteStore, registry: Registry
) -> None:
    without = World(store, registry, default="none")
    archive = await without.archive("a hound")
    world = World(store, registry)
    world.indexer.start()
    await world.indexer.catch_up(5)
    assert await world.found("dog", archive.id) == (["a hound"], None)
    await world.indexer.stop()


async def test_messages_are_embedded_when_somebody_searches_them_and_not_before(
    world: World, double: EmbeddingDouble
) -> None:
    agent, other = await world.agent("my hound is ill", "rain"), await world.agent("a dog of another's")
    await world.indexer.catch_up(5)
    assert double.embedded == []

    async def found(query: str, agent_id: str | None, mode: str = "hybrid") -> list[str]:
        wanted = MessageSearch(query=query, agent_id=agent_id)
        return [hit.message.text for hit in (await world.search.messages(wanted, mode)).found]  # type: ignore[arg-type]

    assert await found("dog", agent.id, "fts") == [] and double.embedded == []
    assert (await found("dog", agent.id))[0] == "my hound is ill"
    assert double.embedded == [["my hound is ill", "rain"], ["dog"]]
    assert set((await found("dog", None))[:2]) == {"my hound is ill", "a dog of another's"}
    assert (await found("dog", other.id, "vector")) == ["a dog of another's"]
    assert await found("  ", agent.id) == []


async def test_a_round_serves_everybody_who_asked_before_it_began() -> None:
    gate, seen = asyncio.Event(), list[int]()
    asked = list[int]()

    async def job() -> None:
        seen.append(len(asked))
        await gate.wait()

    rounds = Rounds("test", job)
    await rounds.served(rounds.ask(), 0)  # not started: nothing to wait for
    rounds.start()

    async def ask() -> None:
        asked.append(1)
        await rounds.served(rounds.ask(), 10)

    first = asyncio.create_task(ask())
    await asyncio.sleep(0)
    while not seen:
        await asyncio.sleep(0)
    later: Sequence[asyncio.Task[None]] = [asyncio.create_task(ask()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *later)
    assert seen[-1] == 4 and len(seen) <= 3
    await rounds.stop()
    await rounds.served(rounds.ask(), 10)  # stopped: nobody waits for ever


async def test_a_failing_round_lets_those_who_wait_go_on() -> None:
    async def job() -> None:
        raise RuntimeError("broken")

    rounds = Rounds("test", job)
    rounds.start()
    await rounds.served(rounds.ask(), 10)
    await rounds.stop()
