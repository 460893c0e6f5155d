"""Providers that users add, over HTTP: taken into use at once, by every server, with keys that never come back."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.doubles.postgres import PostgresProcess, binaries
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer
from tests.e2e.conftest import ServerProcess

KEY = "sk-users-own-key"


@pytest.fixture
def other() -> Iterator[OpenAIDouble]:
    """An engine of the user's own."""
    double = OpenAIDouble(("tiny", "text-embedding-3-small"))
    yield double
    double.close()


def http(server: ServerProcess) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30)


def add(client: httpx.Client, engine: OpenAIDouble, name: str, **fields: Any) -> Any:
    body = {"name": name, "provider_type": "openai", "api_key": KEY, "base_url": engine.base_url, **fields}
    answer = client.post("/v1/providers/", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_added_provider_answers_at_once(server: ServerProcess, client: Letta, other: OpenAIDouble) -> None:
    with http(server) as raw:
        made = add(raw, other, "mine-at-once")
        assert made["id"].startswith("provider-") and made["provider_category"] == "byok" and made["last_synced"]
        handles = [model.handle for model in client.models.list(provider_category=["byok"])]
        assert "mine-at-once/tiny" in handles and "openai/gpt-test" not in handles
        assert "mine-at-once/text-embedding-3-small" in [model.handle for model in client.models.embeddings.list()]
        agent = client.agents.create(model="mine-at-once/tiny", include_base_tools=False)
        other.script(text("Hello."))
        answer = client.agents.messages.create(agent.id, input="Hi")
        assert answer.messages[-1].content == "Hello."  # type: ignore[union-attr]
        assert other.requests[-1]["model"] == "tiny"
        client.agents.delete(agent.id)
        assert raw.delete(f"/v1/providers/{made['id']}").status_code == 200
        assert raw.get(f"/v1/providers/{made['id']}").status_code == 404
        with pytest.raises(APIStatusError, match="mine-at-once"):
            client.agents.create(model="mine-at-once/tiny")


def test_one_request_can_be_sent_to_an_added_provider(
    server: ServerProcess, client: Letta, engine: OpenAIDouble, other: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    with http(server) as raw:
        made = add(raw, other, "for-one-request")
        agent = new_agent()
        other.script(text("From the other."))
        answer = client.agents.messages.create(agent.id, input="Hi", override_model="for-one-request/tiny")
        assert answer.messages[-1].content == "From the other."  # type: ignore[union-attr]
        assert client.agents.retrieve(agent.id).model == "openai/gpt-test"
        raw.delete(f"/v1/providers/{made['id']}")


def test_no_key_comes_back_or_lies_readable_in_the_data_directory(
    own_server: Callable[..., ServerProcess], other: OpenAIDouble
) -> None:
    server = own_server()
    with http(server) as raw:
        made = add(raw, other, "mine")
        agent = raw.post("/v1/agents/", json={"model": "mine/tiny", "secrets": {"TOKEN": "agent-secret-value"}}).json()
        assert agent["secrets"][0]["value"] == "agent-secret-value"
        shown = [
            raw.get("/v1/providers/").text,
            raw.get(f"/v1/providers/{made['id']}").text,
            raw.patch(f"/v1/providers/{made['id']}", json={"context_window": 4096}).text,
            raw.get("/v1/models/").text,
        ]
        assert not any(KEY in text for text in shown)
        window = raw.get("/v1/models/", params={"provider_name": "mine"}).json()[0]["max_context_window"]
        assert window == 4096
    assert server.stop() == 0
    kept = b"".join(path.read_bytes() for path in server.data_dir.iterdir() if path.is_file())
    assert KEY.encode() not in kept and b"agent-secret-value" not in kept
    if (server.data_dir / "perdure.db").exists():
        assert (server.data_dir / "encryption.key").stat().st_mode & 0o077 == 0
    server.start()
    with http(server) as raw:
        again = raw.get(f"/v1/agents/{agent['id']}", params={"include": "agent.secrets"}).json()
        assert again["secrets"][0]["value"] == "agent-secret-value"
        other.script(text("Still here."))
        sent = raw.post(f"/v1/agents/{agent['id']}/messages", json={"input": "Hi"})
        assert sent.json()["messages"][-1]["content"] == "Still here."


def test_a_tool_gets_its_agents_secrets_opened(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    source = 'def look() -> str:\n    """Look."""\n    import os\n    return os.environ["TOKEN"]\n'
    tool = client.tools.upsert(source_code=source)
    agent = new_agent(tool_ids=[tool.id], secrets={"TOKEN": "opened-for-tools"})
    by_hand = client.agents.tools.run("look", agent_id=agent.id, args={})
    assert by_hand.func_return == "opened-for-tools"


def test_a_server_with_another_key_does_not_start(own_server: Callable[..., ServerProcess]) -> None:
    server = own_server()
    assert server.stop() == 0
    if not (server.data_dir / "perdure.db").exists():
        pytest.skip("its database is elsewhere")
    server._env["PERDURE_ENCRYPTION_KEY"] = "another"
    with pytest.raises(RuntimeError, match="PERDURE_ENCRYPTION_KEY"):
        server.start()


def test_a_new_key_seals_everything_anew(own_server: Callable[..., ServerProcess], other: OpenAIDouble) -> None:
    server = own_server(PERDURE_ENCRYPTION_KEY="first")
    with http(server) as raw:
        add(raw, other, "mine")
        agent = raw.post("/v1/agents/", json={"model": "mine/tiny", "secrets": {"TOKEN": "x1"}}).json()
    for keys in ("second, first", "second"):
        assert server.stop() == 0
        server._env["PERDURE_ENCRYPTION_KEY"] = keys
        server.start()
        with http(server) as raw:
            shown = raw.get(f"/v1/agents/{agent['id']}", params={"include": "agent.secrets"}).json()
            assert shown["secrets"][0]["value"] == "x1"
            other.script(text("Yes."))
            sent = raw.post(f"/v1/agents/{agent['id']}/messages", json={"input": "Hi"})
            assert sent.json()["messages"][-1]["content"] == "Yes."


def test_what_cannot_be_added_is_refused_with_the_field_and_the_fix(server: ServerProcess, other: OpenAIDouble) -> None:
    with http(server) as raw:
        made = add(raw, other, "taken")
        base = {"provider_type": "openai", "api_key": "k", "base_url": other.base_url}
        for body, status, words in (
            ({**base, "name": "taken"}, 409, "taken"),
            ({**base, "name": "openai"}, 409, "configured"),
            ({**base, "name": "a/b"}, 400, "name"),
            ({**base, "name": ""}, 400, "name"),
            ({**base, "name": "x", "provider_type": "letta"}, 400, "provider_type"),
            ({**base, "name": "x", "base_url": "nowhere"}, 400, "base_url"),
            ({"name": "x", "provider_type": "sglang"}, 400, "base_url"),
            ({"name": "x", "provider_type": "groq"}, 400, "api_key"),
            ({"name": "x", "provider_type": "bedrock", "api_key": "k"}, 400, "region"),
            ({"provider_type": "openai"}, 422, "name"),
        ):
            answer = raw.post("/v1/providers/", json=body)
            assert (answer.status_code, words in answer.json()["detail"]) == (status, True), (body, answer.text)
        for change, words in (({"name": "other"}, "name"), ({"base_url": "http://127.0.0.1:1"}, "api_key")):
            answer = raw.patch(f"/v1/providers/{made['id']}", json=change)
            assert (answer.status_code, words in answer.json()["detail"]) == (400, True), answer.text
        configured = raw.get("/v1/providers/", params={"name": "openai"}).json()[0]
        assert configured["provider_category"] == "base"
        assert raw.get(f"/v1/providers/{configured['id']}").json() == configured
        assert raw.delete(f"/v1/providers/{configured['id']}").status_code == 409
        raw.delete(f"/v1/providers/{made['id']}")


def test_check_asks_the_provider(server: ServerProcess, other: OpenAIDouble) -> None:
    with http(server) as raw:
        good = {"provider_type": "openai", "api_key": "k", "base_url": other.base_url}
        assert raw.post("/v1/providers/check", json=good).status_code == 200
        away = raw.post("/v1/providers/check", json={**good, "base_url": "http://127.0.0.1:1/v1"})
        assert away.status_code == 502
        made = add(raw, other, "checked")
        assert raw.post(f"/v1/providers/{made['id']}/check").status_code == 200
        assert raw.patch(f"/v1/providers/{made['id']}/refresh").json()["last_synced"]
        raw.delete(f"/v1/providers/{made['id']}")


def test_a_provider_that_is_away_is_named_beside_the_models_of_the_others(server: ServerProcess) -> None:
    with http(server) as raw:
        away = {"name": "away", "provider_type": "vllm", "base_url": "http://127.0.0.1:1"}
        made = raw.post("/v1/providers/", json=away).json()
        assert made["last_synced"] is None
        answer = raw.get("/v1/models/")
        assert "openai/gpt-test" in [model["handle"] for model in answer.json()]
        assert "away" in answer.headers["x-unreachable-providers"]
        shown = raw.get(f"/v1/providers/{made['id']}").json()
        assert "127.0.0.1:1" in shown["error"]
        raw.delete(f"/v1/providers/{made['id']}")
        assert "x-unreachable-providers" not in raw.get("/v1/models/").headers


@pytest.mark.postgres
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")
def test_two_servers_of_one_database_have_the_same_providers(
    postgres: PostgresProcess, own_server: Callable[..., ServerProcess], other: OpenAIDouble
) -> None:
    url = postgres.fresh()
    a, b = (own_server(PERDURE_DATABASE_URL=url, PERDURE_ENCRYPTION_KEY="both") for _ in range(2))
    with http(a) as at_a, http(b) as at_b, httpx.Client(base_url=other.base_url):
        made = add(at_a, other, "shared")
        agent = at_b.post("/v1/agents/", json={"model": "shared/tiny", "include_base_tools": False}).json()
        other.script(text("One."))
        sent = at_b.post(f"/v1/agents/{agent['id']}/messages", json={"input": "Hi"})
        assert sent.json()["messages"][-1]["content"] == "One."
        assert at_a.delete(f"/v1/providers/{made['id']}").status_code == 200
        for _ in range(100):
            refused = at_b.post(f"/v1/agents/{agent['id']}/messages", json={"input": "Hi"})
            if refused.status_code == 404:
                break
            assert refused.status_code == 200
        assert "shared" in refused.json()["detail"]


def test_perdure_models_lists_added_providers_too(
    own_server: Callable[..., ServerProcess], other: OpenAIDouble
) -> None:
    server = own_server()
    with http(server) as raw:
        add(raw, other, "mine")
    if not (server.data_dir / "perdure.db").exists():
        pytest.skip("its database is elsewhere")
    env = {**server._env, "PERDURE_DATA_DIR": str(server.data_dir)}
    shown = subprocess.run(
        [sys.executable, "-m", "perdure", "models", "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "mine/tiny" in [model["handle"] for model in json.loads(shown.stdout)["models"]], shown.stderr


def test_an_added_engine_may_have_several_servers(server: ServerProcess) -> None:
    doubles = [SGLangDouble(small_tokenizer()) for _ in range(2)]
    try:
        with http(server) as raw:
            urls = [double.base_url for double in doubles]
            body = {"name": "pair", "provider_type": "sglang", "base_url": urls}
            made = raw.post("/v1/providers/", json=body).json()
            assert made["base_url"] == ",".join(urls) and made["last_synced"]
            assert [(each["base_url"], each["up"]) for each in made["replicas"]] == [(url, True) for url in urls]
            doubles[0].dead = True
            raw.get("/v1/models/")
            assert raw.post(f"/v1/providers/{made['id']}/check").status_code == 200
            changed = raw.patch(f"/v1/providers/{made['id']}", json={"base_url": urls[1]}).json()
            assert changed["base_url"] == urls[1] and changed["replicas"] == []
            changed = raw.patch(f"/v1/providers/{made['id']}", json={"base_url": f"{urls[1]}, {urls[0]}"}).json()
            assert [each["base_url"] for each in changed["replicas"]] == [urls[1], urls[0]]
            raw.delete(f"/v1/providers/{made['id']}")
            wrong = raw.post("/v1/providers/", json={**body, "name": "x", "provider_type": "openai", "api_key": "k"})
            assert wrong.status_code == 400 and "base_url: openai takes one address" in wrong.text
    finally:
        for double in doubles:
            double.close()
