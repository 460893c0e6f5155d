"""Providers as Letta JSON. No key leaves here, sealed or not."""

from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from msgspec import UNSET
from pydantic import SecretStr

from perdure.agents.providers import ProviderChange, ProviderSpec
from perdure.api.to_wire import iso
from perdure.api.wire.providers import CheckProvider, CreateProvider, UpdateProvider
from perdure.core.errors import AgentError
from perdure.core.providers import AddedProvider
from perdure.providers.catalogue import shown_url
from perdure.providers.configs import ProviderConfig
from perdure.providers.profiles import profile_of
from perdure.providers.replicas import ReplicaState


def added_json(
    provider: AddedProvider, error: AgentError | None, replicas: Sequence[ReplicaState] = ()
) -> dict[str, Any]:
    """`error`: what was wrong when it was last asked for its models. `replicas`: how its servers are, if it has several."""
    urls = (
        [url.strip() for url in provider.base_url.split(",")]
        if provider.base_url
        else [profile_of(provider.kind).base_url]
    )
    return {
        **_shown(provider.name, provider.kind, urls, error, replicas),
        "id": provider.id,
        "provider_category": "byok",
        "region": provider.region,
        "api_version": provider.api_version,
        "models": None if provider.models is None else list(provider.models),
        "context_window": provider.context_window,
        "created_at": iso(provider.created_us),
        "updated_at": iso(provider.updated_us),
        "last_synced": iso(provider.synced_us),
    }


def base_json(
    config: ProviderConfig, error: AgentError | None, replicas: Sequence[ReplicaState] = ()
) -> dict[str, Any]:
    """One that the server was configured with; its id follows from its name."""
    return {
        **_shown(config.name, config.kind, [config.base_url, *config.replicas], error, replicas),
        "id": base_id(config),
        "provider_category": "base",
        "region": config.cloud.region if config.cloud is not None else config.options.region,
        "api_version": config.options.api_version,
        "models": None if config.options.models is None else list(config.options.models),
        "context_window": config.options.context_window,
        "created_at": None,
        "updated_at": None,
        "last_synced": None,
    }


def base_id(config: ProviderConfig) -> str:
    text = str(uuid5(NAMESPACE_URL, f"perdure:provider:{config.name}"))
    return f"provider-{text[:14]}4{text[15:]}"


def _shown(
    name: str,
    kind: str,
    urls: Sequence[str | None],
    error: AgentError | None,
    replicas: Sequence[ReplicaState],
) -> dict[str, Any]:
    return {
        "name": name,
        "provider_type": kind,
        "base_url": ",".join(shown for url in urls if (shown := shown_url(url))) or None,
        "replicas": [
            {
                "base_url": shown_url(each.base_url),
                "up": each.up,
                "running": each.running,
                "weight_version": each.weight_version,
                "error": each.error,
            }
            for each in replicas
        ],
        "error": error.message if error is not None else None,
        "api_key": None,
        "access_key": None,
        "api_key_enc": None,
        "access_key_enc": None,
    }


def provider_spec(body: CreateProvider | CheckProvider) -> ProviderSpec:
    return ProviderSpec(
        name=body.name if isinstance(body, CreateProvider) else body.provider_type,
        provider_type=body.provider_type,
        api_key=_text(body.api_key),
        access_key=_text(body.access_key),
        base_url=_joined(body.base_url),
        region=body.region,
        api_version=body.api_version,
        models=None if body.models is None else tuple(body.models),
        context_window=body.context_window,
    )


def provider_change(body: UpdateProvider) -> ProviderChange:
    """What the body names; a key of null is left as it is."""
    values: dict[str, Any] = {
        name: getattr(body, name)
        for name in ("region", "api_version", "context_window")
        if name in body.model_fields_set
    }
    if "base_url" in body.model_fields_set:
        values["base_url"] = _joined(body.base_url)
    if "models" in body.model_fields_set:
        values["models"] = None if body.models is None else tuple(body.models)
    return ProviderChange(
        **values,
        api_key=UNSET if body.api_key is None else _text(body.api_key),
        access_key=UNSET if body.access_key is None else _text(body.access_key),
    )


def _joined(base_url: str | list[str] | None) -> str | None:
    return ",".join(base_url) if isinstance(base_url, list) else base_url


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value().strip() if secret is not None else ""
