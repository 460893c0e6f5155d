"""The trajectory routes without a socket: lines as they come, rescoring, and what bad requests are told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from perdure.agents.recompile import first_system_message
from perdure.api.app import create_app
from perdure.api.routes import messages
from perdure.api.routes.trajectories import routes
from perdure.api.services import Services
from perdure.config import Settings
from perdure.core.agents import Agent, AgentBundle
from perdure.core.errors import Invalid
from perdure.core.ids import new_id
from perdure.providers.registry import Resolved
from perdure.providers.scripted import ScriptedEngine
from perdure.providers.token_exact import TokenExactModel
from perdure.providers.web import Web
from perdure.rollouts.export import FORMATS
from perdure.rollouts.export.formats import dump
from perdure.runs.search import Searcher
from perdure.store import agents
from perdure.store.base import Query, Tx
from perdure.store.sqlite import SqliteStore
from perdure.tokens.export import load_jsonl
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.verify import verify_bytes
from tests.doubles.tokenizers import small_tokenizer
from tests.unit.tokens.trajectory_ledger import conversation, score


class ScriptedRegistry:
    """One token-exact model, `test/exact`; `test/text` takes text only."""

    def __init__(self) -> None:
        tokenizer = small_tokenizer()
        engine = ScriptedEngine(tokenizer, stop_token_id=0)
        self.model = TokenExactModel(
            engine, Qwen3Renderer(tokenizer), provider_name="test", model_name="exact", handle="test/exact"
        )

    async def resolve(self, handle: str, *, settings: Any = None, require_exact: bool = False) -> Resolved:
        if handle != "test/exact" and require_exact:
            raise Invalid(f"{handle} has no tokenizer here")
        return Resolved(self.model, "exact", "test", None)


@pytest.fixture
def client(store: SqliteStore, tmp_path: Path) -> httpx.AsyncClient:
    parts = Services(
        settings=Settings(data_dir=tmp_path),
        store=store,
        registry=cast(Any, ScriptedRegistry()),
        sandbox=cast(Any, SimpleNamespace(isolation="strict", warning=None)),
        runner=cast(Any, None),
        web=Web(),
        rollouts=cast(Any, None),
        batches=cast(Any, None),
        metrics=bytes,
        embeddings=cast(Any, None),
        search=Searcher(store),
        vault=cast(Any, None),
        providers=cast(Any, None),
    )
    app = create_app(parts, extra_routes=[*routes, *messages.routes])
    return httpx.AsyncClient(transport=httpx.ASGITransport(cast(Any, app)), base_url="http://test")


async def recorded(store: SqliteStore) -> str:
    """An agent whose conversation holds the test ledger; answers its id."""
    import msgspec

    agent = Agent(id=new_id("agent"), name="test", model="sglang/tiny")
    system = first_system_message(AgentBundle(agent=agent))
    await store.write(lambda: agents.create_agent(AgentBundle(agent=agent), new_blocks=[], system_message=system))
    ledger, pack = conversation(), msgspec.msgpack.Encoder().encode

    def write() -> Tx[None]:
        for segment in ledger.segments:
            segment = msgspec.structs.replace(segment, conversation_id=agent.id)
            row = {"id": segment.id, "conversation_id": agent.id, "agent_id": agent.id, "idx": segment.index}
            yield Query("insert_segment", {**row, "body": pack(segment)})
        for call in ledger.calls:
            call = msgspec.structs.replace(call, conversation_id=agent.id)
            row = {"id": call.id, "segment_id": call.segment_id, "conversation_id": agent.id, "run_id": call.run_id}
            yield Query("insert_call", {**row, "step_id": call.step_id, "body": pack(call)})

    await store.write(write)
    return agent.id


async def test_an_agents_record_comes_as_lines_and_verifies(client: httpx.AsyncClient, store: SqliteStore) -> None:
    agent_id = await recorded(store)
    for query in ({"agent_id": agent_id}, {"conversation_id": agent_id}):
        answer = await client.get("/v1/trajectories", params=query)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        report = verify_bytes(answer.content, score=score)
        assert report.violations == [] and report.calls == 4


@pytest.mark.parametrize("name", FORMATS)
async def test_an_agents_record_comes_in_every_format(client: httpx.AsyncClient, store: SqliteStore, name: str) -> None:
    agent_id = await recorded(store)
    record = load_jsonl((await client.get("/v1/trajectories", params={"agent_id": agent_id})).content)
    answer = await client.get("/v1/trajectories", params={"agent_id": agent_id, "format": name})
    assert answer.status_code == 200
    assert answer.content == dump(record, name)
    assert answer.headers["content-type"] == (
        "application/vnd.apache.parquet" if name == "parquet" else "application/x-ndjson"
    )


async def test_nothing_on_record_is_an_empty_answer(client: httpx.AsyncClient, store: SqliteStore) -> None:
    agent = Agent(id=new_id("agent"), name="test", model="openai/small")
    system = first_system_message(AgentBundle(agent=agent))
    await store.write(lambda: agents.create_agent(AgentBundle(agent=agent), new_blocks=[], system_message=system))
    answer = await client.get("/v1/trajectories", params={"agent_id": agent.id})
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 422),
        ({"agent_id": "a", "run_id": "b"}, 422),
        ({"agent_id": "a", "format": "csv"}, 422),
        ({"agent_id": "agent-00000000-0000-4000-8000-000000000000"}, 404),
        ({"run_id": "run-00000000-0000-4000-8000-000000000000"}, 404),
        ({"conversation_id": "conv-00000000-0000-4000-8000-000000000000"}, 404),
    ],
)
async def test_what_cannot_be_exported_is_said(client: httpx.AsyncClient, query: dict[str, str], status: int) -> None:
    assert (await client.get("/v1/trajectories", params=query)).status_code == status


async def test_a_token_record_is_scored_by_the_engine(client: httpx.AsyncClient) -> None:
    body = {"handle": "test/exact", "token_ids": [5, 6, 7, 8], "start": 2}
    answer = await client.post("/v1/trajectories/rescore", json=body)
    assert answer.status_code == 200
    whole = await client.post("/v1/trajectories/rescore", json={**body, "start": 1})
    assert answer.json()["logprobs"] == whole.json()["logprobs"][1:]
    assert all(logprob < 0 for logprob in answer.json()["logprobs"])


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"start": 0}, 422, "start"),
        ({"start": 9}, 422, "start"),
        ({"token_ids": [1, -1, 3]}, 422, "token_ids[1]"),
        ({"token_ids": [1, 2, 10**6]}, 422, "token_ids[2]"),
        ({"token_ids": "text"}, 422, "token_ids"),
        ({"handle": None}, 422, "handle"),
        ({"handle": "test/text"}, 400, "tokenizer"),
    ],
)
async def test_what_cannot_be_scored_is_said(
    client: httpx.AsyncClient, change: dict[str, Any], status: int, says: str
) -> None:
    body = {"handle": "test/exact", "token_ids": [5, 6, 7], "start": 1} | change
    answer = await client.post("/v1/trajectories/rescore", json=body)
    assert answer.status_code == status
    assert says in answer.text


async def test_a_model_that_reads_text_only_refuses_an_image_before_anything_is_stored(
    store: SqliteStore, client: httpx.AsyncClient
) -> None:
    agent_id = await recorded(store)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    answer = await client.post(
        f"/v1/agents/{agent_id}/messages", json={"messages": [{"role": "user", "content": [image]}]}
    )
    assert answer.status_code == 400
    assert "takes no images" in answer.json()["detail"]
