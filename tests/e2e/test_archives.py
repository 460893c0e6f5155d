"""Archives and archival memory with the real SDK, over every method it has for them."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import letta_client
import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble
from tests.e2e.conftest import ServerProcess


@pytest.fixture
def new_archive(client: Letta) -> Iterator[Callable[..., Any]]:
    made: list[str] = []

    def make(name: str = "shelf", **fields: Any) -> Any:
        archive = client.archives.create(name=name, **fields)
        made.append(archive.id)
        return archive

    yield make
    for archive_id in made:
        with contextlib.suppress(letta_client.NotFoundError):
            client.archives.delete(archive_id)


@pytest.fixture
def raw(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as http:
        yield http


def test_an_archive_is_made_read_changed_listed_and_deleted(client: Letta, new_archive: Callable[..., Any]) -> None:
    archive = new_archive("notes", description="of the trip")
    assert (archive.name, archive.description, archive.vector_db_provider) == ("notes", "of the trip", "native")
    assert client.archives.retrieve(archive.id) == archive
    changed = client.archives.update(archive.id, name="diary")
    assert (changed.name, changed.description) == ("diary", "of the trip")
    assert client.archives.update(archive.id, description="new").description == "new"
    other = new_archive("diary")
    assert [each.id for each in client.archives.list(name="diary")] == [other.id, archive.id]
    assert [each.id for each in client.archives.list(name="diary", order="asc")] == [archive.id, other.id]
    assert [each.id for each in client.archives.list(name="diary", limit=1)] == [other.id, archive.id]
    assert [each.id for each in client.archives.list(name="diary", after=other.id)] == [archive.id]
    client.archives.delete(archive.id)
    for call in (client.archives.retrieve, client.archives.delete):
        with pytest.raises(letta_client.NotFoundError, match=archive.id):
            call(archive.id)


def test_agents_share_an_archive(client: Letta, new_agent: Callable[..., Any], new_archive: Callable[..., Any]) -> None:
    first, second, archive = new_agent(), new_agent(), new_archive("shared")
    for agent in (first, second):
        assert client.agents.archives.attach(archive.id, agent_id=agent.id) is None
        assert client.agents.archives.attach(archive.id, agent_id=agent.id) is None
        assert [each.id for each in client.archives.list(agent_id=agent.id)] == [archive.id]
    (filed,) = client.agents.passages.create(first.id, text="the key is under the mat", tags=["home"])
    assert filed.archive_id == archive.id
    assert [p.text for p in client.agents.passages.list(second.id)] == [filed.text]
    assert client.agents.passages.search(second.id, query="key").results[0].content == filed.text
    assert client.agents.archives.detach(archive.id, agent_id=second.id) is None
    assert client.agents.passages.list(second.id) == []
    assert client.agents.passages.search(second.id, query="key").count == 0
    missing = archive.id[:-4] + "0000"
    with pytest.raises(letta_client.NotFoundError):
        client.agents.archives.attach(missing, agent_id=first.id)


def test_the_agents_own_archive_is_made_with_its_first_passage_and_goes_with_it(client: Letta) -> None:
    agent = client.agents.create(name="Ada", model="openai/gpt-test", include_base_tools=False)
    assert list(client.archives.list(agent_id=agent.id)) == []
    (filed,) = client.agents.passages.create(agent.id, text="one")
    (again,) = client.agents.passages.create(agent.id, text="two")
    (archive,) = client.archives.list(agent_id=agent.id)
    assert filed.archive_id == again.archive_id == archive.id
    assert archive.name == "Ada's archive"
    client.agents.delete(agent.id)
    with pytest.raises(letta_client.NotFoundError):
        client.archives.retrieve(archive.id)


def test_passages_of_an_archive(client: Letta, raw: httpx.Client, new_archive: Callable[..., Any]) -> None:
    archive = new_archive()
    at = datetime(2024, 5, 1, 12, tzinfo=UTC)
    one = client.archives.passages.create(
        archive.id, text="one", tags=["a", "b", "a"], metadata={"page": 1}, created_at=at.isoformat()
    )
    assert (one.text, one.tags, one.metadata, one.created_at) == ("one", ["a", "b"], {"page": 1}, at)
    assert one.archive_id == archive.id
    many = client.archives.passages.create_many(
        archive.id, passages=[{"text": "two"}, {"text": "three", "tags": ["b"]}]
    )
    assert [(each.text, each.tags) for each in many] == [("two", []), ("three", ["b"])]
    listed = raw.get(f"/v1/archives/{archive.id}/passages").json()
    assert [each["text"] for each in listed] == ["one", "two", "three"]
    path = f"/v1/archives/{archive.id}/passages/{one.id}"
    changed = raw.patch(path, json={"text": "uno", "tags": ["c"], "metadata": None}).json()
    assert (changed["text"], changed["tags"], changed["metadata"]) == ("uno", ["c"], {"page": 1})
    assert changed["updated_at"] > changed["created_at"]
    found = client.passages.search(query="one", archive_id=archive.id)
    assert "one" not in {hit.passage.text for hit in found}
    assert client.passages.search(query="uno", archive_id=archive.id)[0].passage.id == one.id
    client.archives.passages.delete(one.id, archive_id=archive.id)
    with pytest.raises(letta_client.NotFoundError, match=one.id):
        client.archives.passages.delete(one.id, archive_id=archive.id)
    assert one.id not in {hit.passage.id for hit in client.passages.search(query="uno", archive_id=archive.id)}


def test_a_batch_is_filed_whole_or_not_at_all(client: Letta, new_archive: Callable[..., Any]) -> None:
    archive = new_archive()
    with pytest.raises(letta_client.UnprocessableEntityError, match=r"passages\[1\]\.text"):
        client.archives.passages.create_many(archive.id, passages=[{"text": "fine"}, {"text": "  "}])
    with pytest.raises(letta_client.UnprocessableEntityError, match=r"passages\[0\]\.created_at"):
        client.archives.passages.create_many(archive.id, passages=[{"text": "x", "created_at": "yesterday"}])
    assert client.passages.search(archive_id=archive.id) == []
    assert client.archives.passages.create_many(archive.id, passages=[]) == []


def test_a_search_over_everybodys_passages(
    client: Letta, new_agent: Callable[..., Any], new_archive: Callable[..., Any]
) -> None:
    agent, archive = new_agent(), new_archive()
    client.agents.passages.create(agent.id, text="zebra in the agent's archive", tags=["x"], created_at="2020-01-01")
    client.archives.passages.create(archive.id, text="zebra zebra on the shelf", tags=["x", "y"])

    def found(**asked: Any) -> list[str]:
        return [hit.passage.text.split()[-1] for hit in client.passages.search(**asked)]

    assert sorted(found(query="zebra")) == ["archive", "shelf"]
    assert found(query="zebra", agent_id=agent.id) == ["archive"]
    assert found(query="zebra", archive_id=archive.id) == ["shelf"]
    assert found(query="zebra", tags=["x", "y"], tag_match_mode="all") == ["shelf"]
    assert found(query="zebra", end_date="2020-01-01") == ["archive"]
    assert found(query="zebra", start_date="2020-01-02") == ["shelf"]
    assert len(found(query="zebra", limit=1)) == 1
    assert found(tags=["y"]) == ["shelf"]
    hit = client.passages.search(query="shelf", archive_id=archive.id)[0]
    assert hit.score > 0 and hit.metadata is not None and hit.metadata["fts_rank"] == 1
    with pytest.raises(letta_client.UnprocessableEntityError, match="not both"):
        client.passages.search(query="x", agent_id=agent.id, archive_id=archive.id)
    with pytest.raises(letta_client.NotFoundError):
        client.passages.search(query="x", archive_id=archive.id[:-4] + "0000")


def test_an_archives_embedding_model_cannot_be_changed(
    client: Letta, raw: httpx.Client, new_archive: Callable[..., Any]
) -> None:
    archive = new_archive()
    answer = raw.patch(f"/v1/archives/{archive.id}", json={"embedding": "openai/other"})
    assert answer.status_code == 422 and "keeps its embedding model" in answer.json()["detail"]


def test_archives_tags_are_shown_to_the_agent(
    client: Letta, new_agent: Callable[..., Any], engine: OpenAIDouble
) -> None:
    agent = new_agent()
    client.agents.passages.create(agent.id, text="blue", tags=["colour", "liked"])
    client.agents.messages.create(agent.id, input="hi")
    prompt = engine.requests[-1]["messages"][0]["content"]
    assert "- Passages in archival memory (archival_memory_search finds them): 1\n" in prompt
    assert "- Tags in archival memory: colour, liked\n" in prompt
