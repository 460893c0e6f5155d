"""Gemini on Google Cloud over the wire: where it is called, by which right, and what is listed."""

import json
from typing import Any

from perdure.core.messages import Message, TextPart
from perdure.core.model import ModelDone, Prompt
from perdure.providers.clouds import Cloud
from perdure.providers.configs import ProviderConfig, ProviderOptions, providers_from_config, providers_from_env
from perdure.providers.http import Http
from perdure.providers.registry import Registry
from tests.contract.conversations import Said, Text
from tests.contract.translators.gemini import GeminiSpeaker
from tests.doubles.wire import END, HEAD, Wire, chunk

SPOKEN = [HEAD + chunk(GeminiSpeaker().streamed(Said(items=(Text(("Hello.",)),)))) + END]


def config(wire: Wire, **more: Any) -> ProviderConfig:
    cloud = Cloud(region="europe-west4", project="acme")
    return ProviderConfig(
        name="google_vertex", kind="google_vertex", base_url=f"{wire.url}/v1", api_key="ya29.token", cloud=cloud, **more
    )


async def test_a_call_names_project_and_location_and_carries_a_token(http: Http, wire: Wire) -> None:
    wire.answers = [SPOKEN]
    resolved = await Registry([config(wire)], http=http).resolve("google_vertex/gemini-2.5-pro")
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
    items = [
        item
        async for batch in resolved.model.stream(Prompt(model="m", system="be", messages=[hello]))
        for item in batch
    ]
    assert isinstance(items[-1], ModelDone) and items[-1].content == (TextPart("Hello."),)
    ((line, headers, body),) = wire.requests
    below = "/v1/projects/acme/locations/europe-west4/publishers/google/models/gemini-2.5-pro"
    assert line == f"POST {below}:streamGenerateContent?alt=sse"
    assert headers["authorization"] == "Bearer ya29.token" and "x-goog-api-key" not in headers
    assert json.loads(body)["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    assert resolved.info is not None and resolved.info.context_window == 1_048_576


async def test_what_is_listed(http: Http, wire: Wire) -> None:
    known = await Registry([config(wire)], http=http).list_models()
    assert "google_vertex/gemini-2.5-flash" in [info.handle for info in known]
    own = config(wire, options=ProviderOptions(models=("gemini-x",)))
    assert [info.name for info in await Registry([own], http=http).list_models()] == ["gemini-x"]
    assert wire.requests == []


def test_project_and_location_are_enough() -> None:
    env = {"GOOGLE_CLOUD_PROJECT": "acme", "GOOGLE_CLOUD_LOCATION": "global"}
    (found,) = [each for each in providers_from_env(env) if each.kind == "google_vertex"]
    assert found.base_url == "https://aiplatform.googleapis.com/v1" and found.cloud == Cloud(
        region="global", project="acme"
    )
    table = {"providers": {"google_vertex": {"project": "other", "region": "us"}}}
    (by_file,) = providers_from_config(table, {})
    assert by_file.base_url == "https://aiplatform.us.rep.googleapis.com/v1"
