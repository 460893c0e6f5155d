"""Azure OpenAI: both forms of its addresses, deployments and the models behind them."""

import json
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.messages import Message, TextPart
from perdure.core.model import Prompt
from perdure.providers.configs import providers_from_env
from perdure.providers.http import Http
from perdure.providers.registry import Registry
from tests.doubles.wire import END, HEAD, Wire, answer, as_stream, chunk

DEPLOYMENTS = {
    "data": [
        {"id": "prod", "model": "gpt-5-mini", "status": "succeeded", "object": "deployment"},
        {"id": "old one", "model": "gpt-4o", "status": "succeeded", "object": "deployment"},
        {"id": "embed", "model": "text-embedding-3-small", "status": "succeeded", "object": "deployment"},
    ]
}
SAID = as_stream([{"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}, "[DONE]"])


def registry(http: Http, url: str, **more: str) -> Registry:
    env = {"AZURE_OPENAI_ENDPOINT": url, "AZURE_OPENAI_API_KEY": "key-1", **more}
    return Registry([each for each in providers_from_env(env) if each.kind == "azure"], http=http)


async def ask(made: Registry, handle: str, wire: Wire, **settings: Any) -> dict[str, Any]:
    resolved = await made.resolve(handle)
    wire.answers = [[HEAD + chunk(SAID) + END]]
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
    asked = Prompt(model=resolved.name, system="", messages=[hello], settings=ModelSettings(**settings))
    async for _ in resolved.model.stream(asked):
        pass
    line, headers, body = wire.requests[-1]
    assert headers["api-key"] == "key-1" and "authorization" not in headers
    return {"line": line, **json.loads(body)}


@pytest.mark.parametrize("path", ["", "/", "/openai", "/openai/v1/", "/openai/deployments/prod/chat/completions"])
async def test_its_newer_api_is_found_from_any_address(http: Http, wire: Wire, path: str) -> None:
    wire.answers = [answer(200, DEPLOYMENTS)]
    sent = await ask(registry(http, wire.url + path), "azure/prod", wire)
    assert wire.requests[0][0] == "GET /openai/deployments?api-version=2023-03-15-preview"
    assert sent["line"] == "POST /openai/v1/chat/completions" and sent["model"] == "prod"


async def test_its_older_api_names_the_deployment_and_a_version(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, DEPLOYMENTS)]
    made = registry(http, wire.url, AZURE_API_VERSION="2024-10-21")
    sent = await ask(made, "azure/old one", wire, temperature=0.5, max_output_tokens=9)
    assert sent["line"] == "POST /openai/deployments/old%20one/chat/completions?api-version=2024-10-21"
    assert (sent["temperature"], sent["max_completion_tokens"]) == (0.5, 9)


async def test_a_deployment_is_the_model_behind_it(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, DEPLOYMENTS)]
    made = registry(http, wire.url)
    listed = {info.name: (info.kind, info.context_window, info.family) for info in await made.list_models()}
    assert listed == {
        "prod": ("llm", 400_000, "gpt-5-mini"),
        "old one": ("llm", 128_000, "gpt-4o"),
        "embed": ("embedding", None, "text-embedding-3-small"),
    }
    sent = await ask(made, "azure/prod", wire, temperature=0.5, max_output_tokens=9)
    assert "temperature" not in sent and sent["max_completion_tokens"] == 9


async def test_a_deployment_that_is_not_listed_is_asked_all_the_same(http: Http, wire: Wire) -> None:
    wire.answers = [answer(404, {"error": {"code": "404", "message": "Resource not found"}})]
    assert (await ask(registry(http, wire.url), "azure/other", wire))["model"] == "other"


async def test_models_of_a_provider_without_a_list(http: Http, wire: Wire) -> None:
    wire.answers = [answer(404, {"error": {"message": "not found"}})]
    made = Registry(providers_from_env({"ZAI_BASE_URL": f"{wire.url}/api/paas/v4", "ZAI_API_KEY": "k"}), http=http)
    listed = {info.handle: info.context_window for info in await made.list_models() if info.provider_name == "zai"}
    assert "zai/glm-5.3" in listed and wire.requests[0][0] == "GET /api/paas/v4/models"
    assert set(listed.values()) == {None}  # it is not Z.ai's own address, so nobody knows what was set there
