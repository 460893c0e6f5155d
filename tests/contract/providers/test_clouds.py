"""Claude on Bedrock and Vertex over the wire: signatures and tokens as sent, listings, damage on the way."""

import asyncio
import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perdure.core.errors import ProviderError
from perdure.core.messages import Message, TextPart
from perdure.core.model import ModelDone, Prompt
from perdure.providers.bedrock import Bedrock, BedrockProvider
from perdure.providers.clouds import Cloud
from perdure.providers.configs import ProviderConfig, ProviderOptions
from perdure.providers.google_auth import METADATA_PATH, GoogleTokens
from perdure.providers.http import Endpoint, Http
from perdure.providers.sigv4 import AwsKeys, signed_headers
from perdure.providers.vertex import VertexProvider
from tests.contract.conversations import Said, Text
from tests.contract.translators.clouds import BedrockSpeaker, VertexSpeaker
from tests.doubles.wire import END, HEAD, Wire, answer, chunk

KEYS = AwsKeys("AKID", "secret", "session")
PROFILE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SAID = Said(items=(Text(("Hel", "lo.")),))
STREAM = HEAD.replace(b"text/event-stream", b"application/vnd.amazon.eventstream")


def prompt(model: str) -> Prompt:
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
    return Prompt(model=model, system="be", messages=[hello])


async def ask(model: Any, name: str = PROFILE) -> tuple[str, ModelDone]:
    items = [item async for batch in model.stream(prompt(name)) for item in batch]
    assert isinstance(items[-1], ModelDone)
    return "".join(item.text for item in items[:-1]), items[-1]


def bedrock(http: Http, wire: Wire, **more: Any) -> BedrockProvider:
    cloud = Cloud(region="us-west-2", keys=KEYS)
    config = ProviderConfig(name="bedrock", kind="bedrock", base_url=wire.url, cloud=cloud, **more)
    return BedrockProvider(config, http)


async def test_what_is_sent_is_what_was_signed(http: Http, wire: Wire) -> None:
    wire.answers = [[STREAM + chunk(BedrockSpeaker().streamed(SAID)) + END]]
    assert (await ask(bedrock(http, wire).chat(PROFILE)))[0] == "Hello."
    line, headers, body = wire.requests[0]
    verb, _, path = line.partition(" ")
    assert path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream"
    at = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    again = signed_headers(verb, wire.url + path, body, KEYS, region="us-west-2", service="bedrock", now=at)
    assert headers["authorization"] == again["Authorization"]
    assert headers["x-amz-security-token"] == "session"
    sent = json.loads(body)
    assert sent["anthropic_version"] == "bedrock-2023-05-31" and not {"model", "stream"} & set(sent)


async def test_a_key_of_bedrock_is_a_bearer_token(http: Http, wire: Wire) -> None:
    wire.answers = [[STREAM + chunk(BedrockSpeaker().streamed(SAID)) + END]]
    await ask(bedrock(http, wire, api_key="absk").chat(PROFILE))
    headers = wire.requests[0][1]
    assert headers["authorization"] == "Bearer absk" and "x-amz-date" not in headers


async def test_no_right_at_all_is_said(http: Http) -> None:
    platform = Bedrock(Endpoint("bedrock", "http://x.test"), Cloud(region="r"), None)
    with pytest.raises(ProviderError, match="AWS_BEARER_TOKEN_BEDROCK") as raised:
        await platform.headers("/x", b"", ())
    assert raised.value.kind == "llm_authentication"


async def test_models_on_demand_and_profiles_are_listed(http: Http, wire: Wire) -> None:
    old, new = "anthropic.claude-3-haiku-20240307-v1:0", "anthropic.claude-sonnet-4-5-20250929-v1:0"
    wire.answers = [
        answer(
            200,
            {
                "modelSummaries": [
                    {"modelId": old, "inferenceTypesSupported": ["ON_DEMAND"]},
                    {"modelId": new, "inferenceTypesSupported": ["INFERENCE_PROFILE"]},
                ]
            },
        ),
        answer(
            200,
            {
                "inferenceProfileSummaries": [
                    {"inferenceProfileId": PROFILE},
                    {"inferenceProfileId": "us.amazon.nova-pro-v1:0"},
                ]
            },
        ),
    ]
    provider = bedrock(http, wire)
    listed = await provider.list_models()
    assert [(info.handle, info.context_window, info.provider_type) for info in listed] == [
        (f"bedrock/{old}", 200_000, "bedrock"),
        (f"bedrock/{PROFILE}", 200_000, "bedrock"),
    ]
    line, headers, _ = wire.requests[0]
    assert line == "GET /foundation-models?byOutputModality=TEXT&byProvider=Anthropic"
    at = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    url = wire.url + line.partition(" ")[2]
    again = signed_headers("GET", url, b"", KEYS, region="us-west-2", service="bedrock", now=at)
    assert headers["authorization"] == again["Authorization"]
    arn = "arn:aws:bedrock:us-west-2:1:application-inference-profile/x"
    info, _ = await provider.find(arn)
    assert info is not None and info.context_window is None


async def test_damage_before_any_output_is_tried_again(http: Http, wire: Wire) -> None:
    whole = BedrockSpeaker().streamed(SAID)
    damaged = whole[:30] + b"\x00" + whole[31:]
    wire.answers = [[STREAM + chunk(damaged) + END], [STREAM + chunk(whole) + END]]
    assert (await ask(bedrock(http, wire).chat(PROFILE)))[0] == "Hello."
    assert len(wire.requests) == 2


async def test_damage_after_output_is_final(http: Http, wire: Wire) -> None:
    whole = BedrockSpeaker().streamed(SAID)
    wire.answers = [[STREAM + chunk(whole[:-9]) + END]]
    with pytest.raises(ProviderError, match="damaged on the way") as raised:
        await ask(bedrock(http, wire).chat(PROFILE))
    assert raised.value.kind == "llm_connection" and not raised.value.retryable and len(wire.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, {"message": "Too many tokens, please wait before trying again."}, "llm_rate_limit"),
        (403, {"message": "The security token included in the request is invalid."}, "llm_authentication"),
        (400, {"message": "Input is too long for requested model."}, "context_window_exceeded"),
        (400, {"message": "Invocation of model ID x with on-demand throughput isn't supported."}, "llm_bad_request"),
        (503, {"message": "Bedrock is unable to process your request."}, "llm_overloaded"),
    ],
)
async def test_failures_of_bedrock(http: Http, wire: Wire, status: int, body: Any, kind: str) -> None:
    wire.answers = [answer(status, body)]
    with pytest.raises(ProviderError) as raised:
        await ask(bedrock(http, wire).chat(PROFILE))
    assert raised.value.kind == kind


def vertex(http: Http, wire: Wire, **more: Any) -> VertexProvider:
    cloud = Cloud(region="global", project="acme", credentials_file=more.pop("file", None))
    config = ProviderConfig(
        name="anthropic_vertex", kind="anthropic_vertex", base_url=f"{wire.url}/v1", cloud=cloud, **more
    )
    return VertexProvider(config, http)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def service_account(tmp_path: Path, wire: Wire, key: rsa.RSAPrivateKey) -> str:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    fields = {
        "type": "service_account",
        "client_email": "bot@acme.test",
        "private_key": pem,
        "private_key_id": "k1",
        "token_uri": f"{wire.url}/token",
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(fields))
    return str(path)


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_a_service_accounts_claim_is_signed_with_its_key(
    http: Http, wire: Wire, tmp_path: Path, key: rsa.RSAPrivateKey
) -> None:
    streamed = [HEAD + chunk(VertexSpeaker().streamed(SAID)) + END]
    wire.answers = [answer(200, {"access_token": "ya29.a", "expires_in": 3600}), streamed, streamed]
    provider = vertex(http, wire, file=service_account(tmp_path, wire, key))
    for _ in range(2):
        assert (await ask(provider.chat("claude-opus-4-5@20251101"), "claude-opus-4-5@20251101"))[0] == "Hello."
    lines = [line for line, _, _ in wire.requests]
    model = "/v1/projects/acme/locations/global/publishers/anthropic/models/claude-opus-4-5@20251101:streamRawPredict"
    assert lines == ["POST /token", f"POST {model}", f"POST {model}"]
    assert wire.requests[1][1]["authorization"] == "Bearer ya29.a"
    sent = json.loads(wire.requests[1][2])
    assert (sent["anthropic_version"], sent["stream"], "model" in sent) == ("vertex-2023-10-16", True, False)
    form = parse_qs(wire.requests[0][2].decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    head, claims, signature = form["assertion"][0].split(".")
    key.public_key().verify(decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), SHA256())
    assert json.loads(decoded(head)) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    told = json.loads(decoded(claims))
    assert (told["iss"], told["aud"], told["exp"] - told["iat"]) == ("bot@acme.test", f"{wire.url}/token", 3600)


async def test_a_persons_login_is_refreshed_once_for_all_who_wait(http: Http, wire: Wire, tmp_path: Path) -> None:
    fields = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    path = tmp_path / "adc.json"
    path.write_text(json.dumps({**fields, "token_uri": f"{wire.url}/token"}))
    wire.answers = [answer(200, {"access_token": "ya29.b", "expires_in": 3600})]
    tokens = GoogleTokens(http, "v", file=str(path))
    assert await asyncio.gather(*(tokens.token() for _ in range(5))) == ["ya29.b"] * 5
    assert len(wire.requests) == 1
    form = parse_qs(wire.requests[0][2].decode())
    assert form["refresh_token"] == ["r"] and form["grant_type"] == ["refresh_token"]


async def test_a_token_about_to_run_out_is_asked_for_again(http: Http, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "adc.json"
    path.write_text(json.dumps({"type": "authorized_user", "token_uri": f"{wire.url}/token"}))
    wire.answers = [answer(200, {"access_token": f"t{number}", "expires_in": 60}) for number in range(2)]
    tokens = GoogleTokens(http, "v", file=str(path))
    assert [await tokens.token(), await tokens.token()] == ["t0", "t1"]


async def test_the_machines_own_account(
    http: Http, wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    wire.answers = [answer(200, {"access_token": "ya29.m", "expires_in": 3600})]
    assert await GoogleTokens(http, "v", metadata=wire.url).token() == "ya29.m"
    line, headers, _ = wire.requests[0]
    assert line == f"GET {METADATA_PATH}" and headers["metadata-flavor"] == "Google"


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "cannot be read"), ('{"type": "external_account"}', "external_account"), (None, "cannot be read")],
)
async def test_credentials_that_cannot_be_used(http: Http, tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ProviderError, match=why) as raised:
        await GoogleTokens(http, "v", file=str(path)).token()
    assert raised.value.kind == "llm_authentication"


async def test_a_refused_login_says_so_without_the_secret(http: Http, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "adc.json"
    path.write_text(
        json.dumps({"type": "authorized_user", "refresh_token": "s3cret", "token_uri": f"{wire.url}/token"})
    )
    wire.answers = [answer(400, {"error": "invalid_grant", "error_description": "Token has been revoked."})]
    with pytest.raises(ProviderError, match="invalid_grant") as raised:
        await GoogleTokens(http, "v", file=str(path)).token()
    assert raised.value.kind == "llm_authentication" and "s3cret" not in raised.value.message


async def test_vertex_lists_what_google_is_known_to_serve(http: Http, wire: Wire) -> None:
    listed = await vertex(http, wire).list_models()
    assert "anthropic_vertex/claude-haiku-4-5@20251001" in [info.handle for info in listed]
    assert all(info.context_window and info.provider_type == "anthropic" for info in listed)
    own = await vertex(http, wire, options=ProviderOptions(models=("claude-opus-5",))).list_models()
    assert [info.name for info in own] == ["claude-opus-5"] and wire.requests == []
