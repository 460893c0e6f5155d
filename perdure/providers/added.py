"""Providers that users add: what they may say of one, as the configuration the registry takes.

Invariant: such a provider uses only what its user gave. Keys from the server's own environment never go to an address that a
request named.
"""

import re
from urllib.parse import urlsplit

from perdure.core.errors import Invalid
from perdure.core.providers import AddedProvider
from perdure.providers.clouds import Cloud, bedrock_url
from perdure.providers.configs import ProviderConfig, ProviderOptions, addresses
from perdure.providers.profiles import OPENAI_COMPATIBLE, PROFILES, profile_of
from perdure.providers.sigv4 import AwsKeys

# The wire's names of kinds that we call otherwise.
_ALSO = {"lmstudio_openai": "lmstudio"}
# Kinds whose right to call comes from the machine the server runs on, or that run inside of it.
_CONFIGURED_ONLY = frozenset(
    {"local", *(kind for kind, profile in PROFILES.items() if profile.cloud and profile.messages_api != "bedrock")}
)
_NAME = re.compile(r"[\w.-][\w. -]*")
KINDS = (*(kind for kind in PROFILES if kind not in _CONFIGURED_ONLY), OPENAI_COMPATIBLE.kind)


def kind_of(provider_type: str) -> str:
    """The kind that is meant. Invalid for one that cannot be added."""
    kind = _ALSO.get(provider_type, provider_type)
    if kind in _CONFIGURED_ONLY:
        raise Invalid(f"provider_type: {kind!r} has to be configured where the server runs (docs/providers.md).")
    if kind not in KINDS:
        raise Invalid(f"provider_type: {provider_type!r} is none of {', '.join(KINDS)}.")
    return kind


def checked_name(name: str) -> str:
    """Invalid for a name that no handle can begin with."""
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise Invalid(
            f"name: {name!r} cannot be the first part of a handle. Use letters, digits, spaces, '.', '_' and '-', at most 100."
        )
    return name


def config_of(provider: AddedProvider, *, api_key: str, access_key: str) -> ProviderConfig:
    """`api_key` and `access_key` opened. Invalid names what is missing or wrong."""
    profile = profile_of(provider.kind)
    url, *replicas = map(_checked_url, addresses(provider.base_url, provider.kind, "base_url") or ("",))
    cloud = None
    if profile.messages_api == "bedrock":
        if not provider.region:
            raise Invalid("region: missing. Bedrock needs an AWS region, such as us-east-1.")
        keys = AwsKeys(access_key, api_key) if access_key else None
        cloud = Cloud(region=provider.region, keys=keys)
        url = url or bedrock_url(provider.region)
    url = url or profile.base_url
    if url is None:
        raise Invalid(f"base_url: missing. {provider.kind} is wherever it runs: give its address.")
    if not api_key and profile.base_url is not None and url == profile.base_url:
        raise Invalid(f"api_key: missing. {provider.kind} needs a key at its own address.")
    options = ProviderOptions(
        models=provider.models, context_window=provider.context_window, api_version=provider.api_version or None
    )
    return ProviderConfig(
        name=provider.name,
        kind=provider.kind,
        base_url=url,
        api_key=(api_key or None) if cloud is None or cloud.keys is None else None,
        options=options,
        cloud=cloud,
        category="byok",
        replicas=tuple(each for each in replicas if each),
    )


def _checked_url(url: str | None) -> str | None:
    if not url:
        return None
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong:
        raise Invalid(f"base_url: {url!r} is no address. Give one such as https://api.example.com/v1.")
    return url
