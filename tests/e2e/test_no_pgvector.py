"""A PostgreSQL whose owner gives us no pgvector: searches go by words and say so, and once it is there vectors follow."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from letta_client import Letta

from tests.doubles.embeddings import EmbeddingDouble
from tests.doubles.postgres import PostgresProcess, binaries, has_pgvector
from tests.e2e.conftest import ServerProcess

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")]


@pytest.fixture
def double() -> Iterator[EmbeddingDouble]:
    made = EmbeddingDouble()
    yield made
    made.close()


@pytest.fixture
def plain(postgres: PostgresProcess) -> tuple[str, str]:
    """(a new database's URL for its owner, the same for a role that may use its tables and nothing more)."""
    url = postgres.fresh()
    postgres.sql(
        "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'plain') THEN CREATE ROLE plain LOGIN; END IF; END $$"
    )
    for kind in ("TABLES", "SEQUENCES"):
        postgres.sql(f"GRANT ALL ON ALL {kind} IN SCHEMA public TO plain", url)
    return url, url.replace("postgres@", "plain@")


def test_without_pgvector_searches_go_by_words_and_with_it_vectors_follow(
    plain: tuple[str, str], own_server: Callable[..., ServerProcess], double: EmbeddingDouble
) -> None:
    owner, role = plain
    env = {"OPENAI_BASE_URL": double.base_url, "PERDURE_EMBEDDING": "openai/text-embedding-test"}
    server = own_server(PERDURE_DATABASE_URL=role, **env)
    client = Letta(base_url=server.url, max_retries=0)
    archive = client.archives.create(name="a")
    client.archives.passages.create(archive.id, text="a dog barks")
    client.archives.passages.create(archive.id, text="a hound sleeps")
    found, why = search(server, archive.id)
    assert found == ["a dog barks"]
    assert "The database has no pgvector" in (why or "")
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    client.agents.passages.create(agent.id, text="tea at five")
    assert [hit.content for hit in client.agents.passages.search(agent.id, query="tea").results] == ["tea at five"]
    assert server.stop() == 0
    if not has_pgvector():
        pytest.skip("searches went by words; no PostgreSQL here has pgvector for the rest")
    allowed = own_server(PERDURE_DATABASE_URL=owner, **env)
    deadline = time.monotonic() + 20
    while search(allowed, archive.id) != (["a dog barks", "a hound sleeps"], None):
        assert time.monotonic() < deadline, search(allowed, archive.id)
        time.sleep(0.1)


def search(server: ServerProcess, archive_id: str) -> tuple[list[str], str | None]:
    with httpx.Client(base_url=server.url) as raw:
        reply = raw.post("/v1/passages/search", json={"query": "dog", "archive_id": archive_id})
    assert reply.status_code == 200, reply.text
    return [hit["passage"]["text"] for hit in reply.json()], reply.headers.get("x-perdure-search")
