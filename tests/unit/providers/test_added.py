"""What users may say of a provider they add."""

import pytest

from perdure.core.errors import Invalid
from perdure.core.providers import AddedProvider
from perdure.providers.added import KINDS, config_of, kind_of


def test_an_added_provider_never_gets_a_key_it_was_not_given() -> None:
    config = config_of(
        AddedProvider(id="", name="mine", kind="vllm", base_url="http://there"), api_key="", access_key=""
    )
    assert config.api_key is None and config.category == "byok" and config.cloud is None
    signed = AddedProvider(id="", name="mine", kind="bedrock", region="us-east-1")
    bedrock = config_of(signed, api_key="secret", access_key="AKIA")
    assert bedrock.api_key is None and bedrock.cloud is not None and bedrock.cloud.keys is not None
    assert bedrock.cloud.keys.secret_access_key == "secret" and "secret" not in repr(bedrock)


@pytest.mark.parametrize("kind", ["local", "anthropic_vertex", "google_vertex"])
def test_what_lives_on_the_servers_own_rights_cannot_be_added(kind: str) -> None:
    assert kind not in KINDS
    with pytest.raises(Invalid, match="provider_type"):
        kind_of(kind)


def test_the_wires_other_name_of_a_kind_is_taken() -> None:
    assert kind_of("lmstudio_openai") == "lmstudio"
