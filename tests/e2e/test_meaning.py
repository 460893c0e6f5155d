"""Searches by meaning with the real SDK, over a server whose embedding model is a double."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import letta_client
import pytest
from letta_client import Letta

from tests.doubles.embeddings import DIM, EmbeddingDouble
from tests.doubles.openai_chat import call, text
from tests.doubles.postgres import has_pgvector
from tests.e2e.conftest import ServerProcess, empty

HANDLE = "openai/text-embedding-test"
Start = Callable[..., ServerProcess]

pytestmark = pytest.mark.skipif(
    os.environ.get("PERDURE_TEST_DATABASE") == "postgres" and not has_pgvector(),
    reason="no PostgreSQL here has pgvector",
)


@pytest.fixture(scope="module")
def shared_double() -> Iterator[EmbeddingDouble]:
    made = EmbeddingDouble()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_server(module_server: Start, shared_double: EmbeddingDouble) -> ServerProcess:
    return module_server(OPENAI_BASE_URL=shared_double.base_url, PERDURE_EMBEDDING=HANDLE)


@pytest.fixture
def double(shared_double: EmbeddingDouble) -> Iterator[EmbeddingDouble]:
    yield shared_double
    shared_double.reset()


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    yield shared_server
    empty(shared_server)


@pytest.fixture
def client(server: ServerProcess) -> Letta:
    return Letta(base_url=server.url, max_retries=0)


def agent_with(client: Letta, *tools: str) -> Any:
    return client.agents.create(model="openai/gpt-test", include_base_tools=False, tools=list(tools))


def test_models_that_embed_are_listed_with_what_is_known_of_them(client: Letta) -> None:
    listed = {model.handle: model for model in client.models.embeddings.list()}
    assert listed[HANDLE].embedding_model == "text-embedding-test"
    assert (listed[HANDLE].provider_name, listed[HANDLE].embedding_dim) == ("openai", 0)
    archive = client.archives.create(name="a")
    client.archives.passages.create(archive.id, text="hound")
    assert len(client.passages.search(query="dog", archive_id=archive.id)) == 1
    assert next(m for m in client.models.embeddings.list() if m.handle == HANDLE).embedding_dim == DIM


def test_an_archives_model_is_named_when_it_is_made(client: Letta) -> None:
    archive = client.archives.create(name="a", embedding=HANDLE)
    assert archive.embedding_config is not None
    assert (archive.embedding_config.handle, archive.embedding_config.embedding_model) == (
        HANDLE,
        "text-embedding-test",
    )
    config: Any = {"embedding_endpoint_type": "openai", "embedding_model": "text-embedding-test", "embedding_dim": 64}
    older = client.archives.create(name="b", embedding_config=config)
    assert older.embedding_config is not None and older.embedding_config.handle == HANDLE
    for handle, why in (("openai/nothing", "openai/text-embedding-test"), ("nobody/x", "No provider named 'nobody'")):
        with pytest.raises(letta_client.NotFoundError, match=why):
            client.archives.create(name="c", embedding=handle)


def test_archival_memory_is_found_by_meaning(client: Letta) -> None:
    agent = agent_with(client)
    for said in ("hound asleep", "salary paid", "vehicle sold"):
        client.agents.passages.create(agent.id, text=said)
    found = client.agents.passages.search(agent.id, query="dog", top_k=1)
    assert [hit.content for hit in found.results] == ["hound asleep"]
    hit = client.passages.search(query="money", agent_id=agent.id, limit=1)[0]
    assert hit.passage.text == "salary paid"
    assert hit.metadata == {"fts_rank": None, "vector_rank": 1, "found_by": ["vector"]}


def test_what_an_agent_files_is_what_it_finds(client: Letta, double: EmbeddingDouble) -> None:
    agent = agent_with(client, "archival_memory_insert", "archival_memory_search")
    double.script(
        call("archival_memory_insert", {"content": "hound asleep", "tags": ["pets"]}),
        call("archival_memory_search", {"query": "dog", "top_k": 3, "tags": ["pets"]}),
        text("Found."),
    )
    answer = client.agents.messages.create(agent.id, input="hi")
    returns = [m for m in answer.messages if m.message_type == "tool_return_message"]
    found = json.loads(returns[1].tool_return)
    assert found["message"] == "1 passage found."
    (hit,) = found["results"]
    assert (hit["content"], hit["tags"]) == ("hound asleep", ["pets"])
    assert hit["relevance"] > 0 and hit["timestamp"].endswith("+00:00")


def test_a_passage_is_filed_while_the_model_is_away_and_found_when_it_is_back(
    client: Letta, server: ServerProcess, double: EmbeddingDouble
) -> None:
    """An embedder that fails costs the meaning, never the passage, the run or the search."""
    agent = agent_with(client, "archival_memory_insert")
    double.down = (503, {"error": {"message": "overloaded"}})
    double.script(call("archival_memory_insert", {"content": "hound asleep"}), text("Filed."))
    answer = client.agents.messages.create(agent.id, input="hi")
    assert answer.stop_reason.stop_reason == "end_turn"
    client.agents.passages.create(agent.id, text="a dog barks")
    with httpx.Client(base_url=server.url) as raw:
        reply = raw.get(f"/v1/agents/{agent.id}/archival-memory/search", params={"query": "dog"})
    assert [hit["content"] for hit in reply.json()["results"]] == ["a dog barks"]
    assert reply.headers["x-perdure-search"].startswith("full-text only: ")
    double.down = None
    server.stop()
    server.start()
    found = client.agents.passages.search(agent.id, query="dog")
    assert [hit.content for hit in found.results] == ["a dog barks", "hound asleep"]


def test_messages_are_found_by_meaning_and_by_words(
    client: Letta, server: ServerProcess, double: EmbeddingDouble
) -> None:
    agent, other = agent_with(client), agent_with(client)
    double.script(text("Poor hound."), text("Rain again."), text("Which puppy?"))
    for agent_id, said in ((agent.id, "my puppy is ill"), (agent.id, "weather?"), (other.id, "a dog of mine")):
        client.agents.messages.create(agent_id, input=said)
    hits = client.messages.search(query="dog", agent_id=agent.id, limit=2)
    assert {(hit.message_type, hit.content) for hit in hits} == {  # type: ignore[union-attr]
        ("user_message", "my puppy is ill"),
        ("assistant_message", "Poor hound."),
    }
    assert all(hit.agent_id == agent.id and hit.created_at is not None for hit in hits)
    assert client.messages.search(query="dog", agent_id=agent.id, search_mode="fts") == []
    by_words = client.messages.search(query="puppy", search_mode="fts")
    assert {hit.content for hit in by_words} == {"my puppy is ill", "Which puppy?"}  # type: ignore[union-attr]
    everywhere = client.messages.search(query="dog", search_mode="vector", limit=4)
    assert {hit.agent_id for hit in everywhere} == {agent.id, other.id}
    assert client.messages.search(query="dog", agent_id=agent.id, end_date="2020-01-01") == []
    assert len(client.messages.search(query="dog", agent_id=agent.id, conversation_id="default", limit=1)) == 1
    with httpx.Client(base_url=server.url) as raw:
        body = {"query": "dog", "agent_id": agent.id, "roles": ["assistant"], "limit": 1}
        (result,) = raw.post("/v1/agents/messages/search", json=body).json()
    assert (result["embedded_text"], result["vector_rank"]) == ("Poor hound.", 1)
    assert result["message"]["message_type"] == "assistant_message"
    missing = agent.id[:-4] + "0000"
    with pytest.raises(letta_client.NotFoundError):
        client.messages.search(query="x", agent_id=missing)


def test_an_agent_searches_its_conversation_by_meaning(client: Letta, double: EmbeddingDouble) -> None:
    agent = agent_with(client, "conversation_search")
    double.script(text("Noted."))
    client.agents.messages.create(agent.id, input="my salary is low")
    double.script(call("conversation_search", {"query": "money", "roles": ["user"], "limit": 1}), text("Low."))
    answer = client.agents.messages.create(agent.id, input="what do you know?")
    (returned,) = (m for m in answer.messages if m.message_type == "tool_return_message")
    assert [hit["content"] for hit in json.loads(returned.tool_return)["results"]] == ["my salary is low"]


def test_without_an_embedding_model_searches_say_that_they_go_by_words(own_server: Start) -> None:
    server = own_server(PERDURE_EMBEDDING="none")
    client = Letta(base_url=server.url, max_retries=0)
    archive = client.archives.create(name="a")
    assert archive.embedding_config is None
    client.archives.passages.create(archive.id, text="a dog barks")
    with httpx.Client(base_url=server.url) as raw:
        body = {"query": "dog", "archive_id": archive.id}
        reply = raw.post("/v1/passages/search", json=body)
        assert [hit["passage"]["text"] for hit in reply.json()] == ["a dog barks"]
        assert "There is no embedding model" in reply.headers["x-perdure-search"]
        refused = raw.post("/v1/messages/search", json={"query": "x", "search_mode": "vector"})
    assert refused.status_code == 400 and "search_mode" in refused.json()["detail"]
