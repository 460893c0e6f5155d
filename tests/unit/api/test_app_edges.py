"""What all paths have in common: spellings, passwords, ids, wrong bodies, and errors nobody foresaw."""

import json
from typing import Any

import httpx
import pytest
from starlette.routing import Route

AGENT = "agent-123e4567-e89b-42d3-8456-426614174000"


async def test_every_spelling_of_a_path_is_served_without_a_redirect(http: httpx.AsyncClient) -> None:
    for path in ("/v1/agents", "/v1/agents/", "/latest/agents", "/latest/agents/", "/v1/agents//"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()) == (200, []), path
    created = await http.post("/latest/agents/", json={"model": "openai/small"})
    assert created.status_code == 200


async def test_health_tells_a_version_clients_know(http: httpx.AsyncClient) -> None:
    for path in ("/v1/health/", "/v1/health", "/latest/health"):
        body = (await http.get(path)).json()
        assert body["status"] == "ok" and body["version"].startswith("0.16.")
        assert body["tool_isolation"] == "strict" and "perdure_version" in body
    assert (await http.get("/v1/ready/")).json()["status"] == "ok"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic secret"},
        {"authorization": "Bearer "},
        {"x-bare-password": "secret"},
        {"x-bare-password": "password wrong"},
    ],
)
async def test_without_the_password_nothing_but_health_is_open(connect: Any, headers: dict[str, str]) -> None:
    client = connect(password="secret")
    answer = await client.get("/v1/agents/", headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Unauthorized"})
    for path in ("/v1/health/", "/v1/ready", "/latest/health/"):
        assert (await client.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", [{"authorization": "Bearer secret"}, {"x-bare-password": "password secret"}])
async def test_the_password_opens(connect: Any, headers: dict[str, str]) -> None:
    assert (await connect(password="secret").get("/v1/agents/", headers=headers)).status_code == 200


async def test_the_acting_user_must_look_like_one(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/agents/", headers={"user_id": "bob"})).status_code == 400
    good = {"user_id": "user-00000000-0000-4000-8000-000000000000"}
    assert (await http.get("/v1/agents/", headers=good)).status_code == 200


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/v1/agents/nope", "agent"),
        (f"/v1/agents/{AGENT.upper()}", "agent"),
        ("/v1/blocks/block-1", "block"),
        ("/v1/tools/tool-xyz", "tool"),
        ("/v1/steps/step-0", "step"),
    ],
)
async def test_a_malformed_id_is_told_what_it_should_be(http: httpx.AsyncClient, path: str, prefix: str) -> None:
    answer = await http.get(path)
    body = answer.json()
    assert answer.status_code == 422
    assert isinstance(body["detail"], str) and f"'{prefix}-{{uuid4}}'" in body["detail"]
    assert body["examples"][0].startswith(f"{prefix}-") and body["trace_id"]


async def test_what_is_not_there_is_404(http: httpx.AsyncClient) -> None:
    assert (await http.get(f"/v1/agents/{AGENT}")).json() == {"detail": "Agent not found"}
    for path in ("/v1/runs/run-x", "/v1/metadata/anything", "/v1/nothing", f"/v1/agents/{AGENT}/files"):
        answer = await http.get(path)
        assert answer.status_code == 404 and isinstance(answer.json()["detail"], str), path
    assert (await http.put("/v1/agents/")).status_code == 405


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"model": "openai/small", ', "not valid JSON"),
        (b"[]", "body: "),
        (b'{"model": 5}', "model: Input should be a valid string"),
        (b'{"model": "openai/small", "memory_blocks": [{"label": "a"}]}', "memory_blocks.0.value: Field required"),
        (b'{"model": "openai/small", "agent_type": "odd"}', "agent_type: "),
        (b'{"model": "openai/small", "model_settings": {"temperature": "hot"}}', "model_settings.temperature: "),
        (b'{"model": "openai/small", "model_settings": {"top_p": 3}}', "model_settings.top_p: must be between"),
        (b'{"model": "openai/small", "tool_rules": [{"type": "exit_loop"}]}', "tool_rules[0].tool_name"),
        (b'{"model": "openai/small", "name": "a/b"}', "name: "),
        (
            b'{"model": "openai/small", "initial_message_sequence": [{"role": "user"}]}',
            "initial_message_sequence[0].content",
        ),
    ],
)
async def test_a_wrong_body_is_told_where_it_is_wrong(http: httpx.AsyncClient, body: bytes, said: str) -> None:
    answer = await http.post("/v1/agents/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert isinstance(answer.json()["detail"], str) and said in answer.json()["detail"]


async def test_json_needs_no_content_type_and_unknown_fields_are_ignored(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/agents/", content=b'{"model": "openai/small", "from_the_future": {"a": 1}}')
    assert answer.status_code == 200


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "order=sideways", "include=agent.nothing"])
async def test_a_wrong_parameter_is_named(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"/v1/agents/?{query}")
    assert answer.status_code == 422 and query.partition("=")[0] in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"metadata": {"k": "\ud800"}}, "Unicode"), ({"last_run_duration_ms": 2**64}, "too large")],
)
async def test_what_cannot_be_stored_is_a_wrong_request(http: httpx.AsyncClient, fields: Any, said: str) -> None:
    created = (await http.post("/v1/agents/", json={"model": "openai/small"})).json()
    answer = await http.patch(f"/v1/agents/{created['id']}", content=json.dumps(fields))
    assert answer.status_code == 422 and said in answer.json()["detail"]
    assert (await http.get(f"/v1/blocks/?connected_to_agents_count_gt={2**64}")).status_code == 422


async def test_an_unforeseen_error_is_logged_and_tells_nothing(
    connect: Any, store: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    client = connect()
    monkeypatch.setattr(store, "read", broken)
    answer = await client.get(f"/v1/agents/{AGENT}")
    assert (answer.status_code, answer.json()) == (500, {"detail": "An unknown error occurred"})
    assert "secret detail" in caplog.text


async def test_routes_given_first_win(connect: Any) -> None:
    from starlette.responses import PlainTextResponse

    async def mine(_: Any) -> PlainTextResponse:
        return PlainTextResponse("mine")

    client = connect(routes=[Route("/v1/agents/{agent_id}/messages", mine, methods=["POST"], name="send_message")])
    assert (await client.post(f"/v1/agents/{AGENT}/messages/")).text == "mine"
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths["/v1/agents/{agent_id}/messages"]["post"]["operationId"] == "send_message"


async def test_the_openapi_document_hangs_together(http: httpx.AsyncClient) -> None:
    text = (await http.get("/openapi.json")).text
    document = (await http.get("/openapi.json")).json()
    operations = [each["operationId"] for item in document["paths"].values() for each in item.values()]
    assert len(operations) == len(set(operations))
    schemas = document["components"]["schemas"]
    refs = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert refs <= schemas.keys()
    assert {"/v1/agents/", "/v1/agents/{agent_id}", "/v1/tools/", "/v1/runs/{run_id}/usage"} <= document["paths"].keys()
    answer = document["paths"]["/v1/agents/"]["post"]["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/AgentState"}


@pytest.mark.parametrize("path", ["folders", "identities", "mcp-servers", "jobs", "sources"])
async def test_resources_there_are_none_of_list_as_empty(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(f"/v1/{path}/")
    assert (answer.status_code, answer.json()) == (200, [])


async def test_making_what_is_not_supported_is_refused_for_good(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/mcp-servers/", json={})
    assert answer.status_code == 501 and answer.headers["x-should-retry"] == "false"
