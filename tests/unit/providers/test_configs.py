"""Providers out of the environment and the configuration file."""

from pathlib import Path
from typing import Any

import pytest

from perdure.core.errors import Invalid
from perdure.providers import configs
from perdure.providers.clouds import Cloud
from perdure.providers.configs import (
    ProviderConfig,
    api_root,
    providers_from_config,
    providers_from_env,
    unique,
    with_version,
    without_version,
)
from perdure.providers.http import Timeouts
from perdure.providers.model_traits import traits_of
from perdure.providers.profiles import PROFILES
from perdure.providers.sigv4 import AwsKeys


@pytest.fixture(autouse=True)
def no_local_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "has_local_engine", lambda: False)


def found(**env: str) -> list[tuple[str, str, str | None, str | None]]:
    return [(each.name, each.kind, each.base_url, each.api_key) for each in providers_from_env(env)]


def test_nothing_is_configured_by_nothing() -> None:
    assert found() == [] and found(OPENAI_API_KEY="", SGLANG_BASE_URL=" ") == []


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("OPENAI_API_KEY", "openai"),
        ("OPENROUTER_API_KEY", "openrouter"),
        ("TOGETHER_API_KEY", "together"),
        ("GROQ_API_KEY", "groq"),
        ("DEEPSEEK_API_KEY", "deepseek"),
        ("XAI_API_KEY", "xai"),
        ("MISTRAL_API_KEY", "mistral"),
        ("FIREWORKS_API_KEY", "fireworks"),
        ("CEREBRAS_API_KEY", "cerebras"),
        ("BASETEN_API_KEY", "baseten"),
        ("ZAI_API_KEY", "zai"),
    ],
)
def test_a_key_is_enough_for_a_hosted_api(variable: str, name: str) -> None:
    assert found(**{variable: "k"}) == [(name, name, PROFILES[name].base_url, "k")]


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("OPENAI_BASE_URL", "openai"),
        ("OPENAI_API_BASE", "openai"),
        ("SGLANG_BASE_URL", "sglang"),
        ("SGLANG_API_BASE", "sglang"),
        ("VLLM_BASE_URL", "vllm"),
        ("VLLM_API_BASE", "vllm"),
        ("OLLAMA_BASE_URL", "ollama"),
        ("LLAMACPP_BASE_URL", "llamacpp"),
        ("LMSTUDIO_BASE_URL", "lmstudio"),
    ],
)
def test_an_address_is_enough_for_what_one_runs_oneself(variable: str, name: str) -> None:
    assert found(**{variable: "http://h:1/v1"}) == [(name, name, "http://h:1/v1", None)]


def test_a_key_alone_does_not_configure_an_engine() -> None:
    assert found(SGLANG_API_KEY="k") == []
    assert found(SGLANG_API_KEY="k", SGLANG_BASE_URL="http://h") == [("sglang", "sglang", "http://h", "k")]


def test_handles_may_begin_with_another_name() -> None:
    assert found(SGLANG_BASE_URL="http://h", SGLANG_HANDLE_BASE="mine")[0][:2] == ("mine", "sglang")


def test_the_api_of_a_provider_can_be_chosen() -> None:
    (chosen,) = providers_from_env({"XAI_API_KEY": "k", "XAI_WIRE_API": "responses"})
    assert chosen.options.wire_api == "responses"
    with pytest.raises(Invalid, match="XAI_WIRE_API: must be chat or responses, not 'smoke'"):
        providers_from_env({"XAI_API_KEY": "k", "XAI_WIRE_API": "smoke"})
    (by_file,) = providers_from_config({"providers": {"openai": {"wire_api": "chat", "api_key": "k"}}}, {})
    assert by_file.options.wire_api == "chat"


def test_the_embedded_engine_is_offered_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "has_local_engine", lambda: True)
    assert [name for name, *_ in found(OPENAI_API_KEY="k")] == ["openai", "local"]
    monkeypatch.setattr(configs, "has_local_engine", lambda: False)
    assert providers_from_env({"PERDURE_LOCAL_GGUF": "/m.gguf"})[0].options.gguf == "/m.gguf"


def test_tables_of_the_configuration_file() -> None:
    config = {
        "providers": {
            "openai": {"api_key": "k"},
            "lab": {"kind": "sglang", "base_url": "http://h:30000", "api_key_env": "LAB_KEY", "tokenizer": "/t"},
            "other": {"base_url": "http://o/v1", "models": ["a", "b"], "headers": {"X-Team": "1"}, "stream": False},
        }
    }
    openai, lab, other = providers_from_config(config, {"LAB_KEY": "secret"})
    assert (openai.kind, openai.base_url, openai.api_key) == ("openai", "https://api.openai.com/v1", "k")
    assert (lab.name, lab.kind, lab.api_key, lab.options.tokenizer) == ("lab", "sglang", "secret", "/t")
    assert (other.kind, other.options.models, other.options.stream) == ("openai_compatible", ("a", "b"), False)
    assert "secret" not in repr(lab)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"x": {"kind": "sglan", "base_url": "http://h"}}, r"providers\.x\.kind: 'sglan' is none of"),
        ({"x": {"kind": "vllm"}}, r"providers\.x\.base_url: missing"),
        ({"x": {"base_url": "http://h", "modles": []}}, r"providers\.x: .*modles.*models"),
        ({"x": {"base_url": "http://h", "api_key_env": "NOPE"}}, r"providers\.x\.api_key_env: .*NOPE"),
        ({"x": {"base_url": "http://h", "between_timeout_s": 0}}, r"providers\.x: .*between_timeout_s"),
        ({"x": {"base_url": 5}}, r"providers\.x: Expected `str"),
        ({"a/b": {"base_url": "http://h"}}, "cannot hold a '/'"),
    ],
)
def test_what_is_wrong_is_named(table: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        providers_from_config({"providers": table}, {})
    with pytest.raises(Invalid, match="must be tables"):
        providers_from_config({"providers": ["x"]}, {})


def test_how_long_a_provider_is_waited_for() -> None:
    table = {"base_url": "http://h", "first_byte_timeout_s": 7, "connect_timeout_s": 0.5}
    (config,) = providers_from_config({"providers": {"x": table}}, {})
    assert config.options.timeouts == Timeouts(connect_s=0.5, first_byte_s=7, between_s=Timeouts().between_s)
    assert providers_from_config({"providers": {"x": {"base_url": "http://h"}}}, {})[0].options.timeouts == Timeouts()


def test_the_first_of_a_name_wins() -> None:
    one, two = (
        ProviderConfig(name="a", kind="openai", base_url="1"),
        ProviderConfig(name="a", kind="openai", base_url="2"),
    )
    assert unique([one, two]) == [one]


@pytest.mark.parametrize(
    ("given", "chat", "root"),
    [
        ("http://h:1", "http://h:1/v1", "http://h:1"),
        ("http://h:1/", "http://h:1/v1", "http://h:1"),
        ("http://h:1/v1", "http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/chat/completions", "http://h:1/v1", "http://h:1"),
        ("http://h/serve/m", "http://h/serve/m/v1", "http://h/serve/m"),
        ("http://h/serve/m/generate", "http://h/serve/m/v1", "http://h/serve/m"),
        ("https://h/openai/v1", "https://h/openai/v1", "https://h/openai"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai", "https://h/v1beta/openai"),
        ("https://h/api/paas/v4", "https://h/api/paas/v4", "https://h/api/paas/v4"),
    ],
)
def test_base_urls_with_and_without_their_ends(given: str, chat: str, root: str) -> None:
    assert (with_version(given), without_version(given)) == (chat, root)
    assert api_root(given) in (chat, root)


@pytest.mark.parametrize(
    ("model", "window", "refuses"),
    [
        ("gpt-4o-mini", 128_000, False),
        ("gpt-4.1", 1_047_576, False),
        ("gpt-4", 8_192, False),
        ("gpt-5-mini", 400_000, True),
        ("gpt-5-chat-latest", 128_000, False),
        ("openai/o3", 200_000, True),
        ("o4-mini-2025-04-16", 200_000, True),
        ("olmo-3", None, False),
        ("tiny", None, False),
    ],
)
def test_what_is_known_of_models_by_name(model: str, window: int | None, refuses: bool) -> None:
    traits = traits_of(model)
    assert traits.context_window == window and ("temperature" in traits.drop) is refuses


def test_every_profile_can_be_configured() -> None:
    for kind, profile in PROFILES.items():
        assert kind == profile.kind
        assert kind == "local" or profile.url_env
        assert profile.base_url is None or (profile.key_env and profile.base_url == with_version(profile.base_url))


def test_no_profile_names_a_file_here() -> None:
    assert not any(str(Path.home()) in str(profile) for profile in PROFILES.values())


AWS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"}


def test_bedrock_needs_a_region_and_a_right() -> None:
    (config,) = providers_from_env(AWS)
    assert (config.name, config.base_url, config.api_key) == (
        "bedrock",
        "https://bedrock-runtime.eu-west-1.amazonaws.com",
        None,
    )
    assert config.cloud == Cloud(region="eu-west-1", keys=AwsKeys("AKID", "secret"))
    assert providers_from_env({"AWS_REGION": "eu-west-1"}) == []
    assert providers_from_env({key: value for key, value in AWS.items() if key != "AWS_REGION"}) == []
    (bearer,) = providers_from_env({"AWS_BEARER_TOKEN_BEDROCK": "absk", "AWS_DEFAULT_REGION": "us-east-1"})
    assert bearer.api_key == "absk" and bearer.cloud == Cloud(region="us-east-1")


def test_no_secret_of_a_cloud_is_shown() -> None:
    (config,) = providers_from_env({**AWS, "AWS_SESSION_TOKEN": "token"})
    assert "secret" not in repr(config) + repr(config.cloud) and "token" not in repr(config.cloud)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("global", "https://aiplatform.googleapis.com/v1"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
        ("europe-west1", "https://europe-west1-aiplatform.googleapis.com/v1"),
    ],
)
def test_vertex_needs_a_project_and_a_location(location: str, url: str) -> None:
    env = {"GOOGLE_CLOUD_PROJECT": "acme", "GOOGLE_CLOUD_LOCATION": location, "GOOGLE_APPLICATION_CREDENTIALS": "/k"}
    (config,) = [each for each in providers_from_env(env) if each.kind == "anthropic_vertex"]
    assert (config.base_url, config.cloud) == (url, Cloud(region=location, project="acme", credentials_file="/k"))
    assert providers_from_env({"GOOGLE_CLOUD_PROJECT": "acme"}) == []


def test_clouds_in_a_file(tmp_path: Path) -> None:
    shared = tmp_path / "credentials"
    shared.write_text("[work]\naws_access_key_id = A\naws_secret_access_key = B\naws_session_token = C\n")
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(shared)}
    tables = {
        "aws": {"kind": "bedrock", "region": "us-west-2", "aws_profile": "work"},
        "gcp": {"kind": "anthropic_vertex", "region": "us-east5", "project": "p", "credentials_file": "/k.json"},
    }
    aws, gcp = providers_from_config({"providers": tables}, env)
    assert aws.cloud == Cloud(region="us-west-2", keys=AwsKeys("A", "B", "C"))
    assert gcp.cloud == Cloud(region="us-east5", project="p", credentials_file="/k.json")
    assert gcp.base_url == "https://us-east5-aiplatform.googleapis.com/v1"


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"kind": "bedrock"}, "providers.x: Bedrock needs a region"),
        ({"kind": "anthropic_vertex", "region": "global"}, "providers.x: Vertex needs a project"),
        ({"kind": "bedrock", "region": "r", "aws_profile": "nobody"}, "aws_profile: .* 'nobody'"),
    ],
)
def test_what_a_cloud_lacks_is_said(table: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=why):
        providers_from_config({"providers": {"x": table}}, {"HOME": str(tmp_path)})


def test_an_engine_may_have_several_servers() -> None:
    [several] = providers_from_env({"SGLANG_BASE_URL": "http://a:1, http://b:2 ,http://a:1,"})
    assert (several.base_url, several.replicas) == ("http://a:1", ("http://b:2",))
    listed = {"providers": {"lab": {"kind": "vllm", "base_url": ["http://a:1/v1", "http://b:2/v1"]}}}
    [lab] = providers_from_config(listed, {})
    assert (lab.base_url, lab.replicas) == ("http://a:1/v1", ("http://b:2/v1",))
    [one] = providers_from_config({"providers": {"vllm": {"base_url": ["http://a:1"]}}}, {})
    assert (one.base_url, one.replicas) == ("http://a:1", ())


def test_other_providers_have_one_address() -> None:
    with pytest.raises(Invalid, match=r"OPENAI_BASE_URL: openai takes one address, not 2\. .*sglang, vllm"):
        providers_from_env({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://a,http://b"})
    with pytest.raises(Invalid, match=r"providers\.proxy\.base_url: openai_compatible takes one address"):
        providers_from_config({"providers": {"proxy": {"base_url": ["http://a", "http://b"]}}}, {})
