"""Providers: those the server was configured with, to look at, and those that users add."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.errors import json_response
from perdure.api.paging import ProviderId
from perdure.api.provider_resources import added_json, base_id, base_json, provider_change, provider_spec
from perdure.api.services import Services, services
from perdure.api.wire.providers import CheckProvider, CreateProvider, ListProvidersQuery, UpdateProvider
from perdure.core.errors import Conflict, Invalid, NotFound
from perdure.core.providers import AddedProvider
from perdure.providers.configs import ProviderConfig

router = APIRouter(prefix="/providers", tags=["providers"])


@router.post("", operation_id="create_provider")
async def create(request: Request, body: CreateProvider) -> Response:
    """Add a provider; its models can be used at once, as `<name>/<model>`. Its key is sealed and never shown again."""
    return _added(services(request), await services(request).providers.create(provider_spec(body)))


@router.get("", operation_id="list_providers")
async def list_providers(request: Request, query: Annotated[ListProvidersQuery, Query()]) -> Response:
    """Configured ones count as the oldest."""
    parts = services(request)
    found = [_base(parts, config) for config in parts.registry.base]
    found += [_added_json(parts, provider) for provider in await parts.providers.all()]
    page = query.page()
    if page.descending:
        found.reverse()
    found = _between(found, page.after, page.before)
    if query.name is not None:
        found = [item for item in found if item["name"] == query.name]
    if query.provider_type is not None:
        found = [item for item in found if item["provider_type"] == query.provider_type]
    if query.provider_category:
        found = [item for item in found if item["provider_category"] in query.provider_category]
    return json_response(found[: page.limit])


def _between(items: list[dict[str, Any]], after: str | None, before: str | None) -> list[dict[str, Any]]:
    ids = [item["id"] for item in items]
    for cursor in (after, before):
        if cursor is not None and cursor not in ids:
            raise NotFound(f"Provider {cursor} not found")
    return items[ids.index(after) + 1 if after else 0 : ids.index(before) if before else None]


@router.post("/check", operation_id="check_provider")
async def check(request: Request, body: CheckProvider) -> Response:
    """Ask a provider that is not added for its models. A refused key is a 401, an address nobody answers at a 502."""
    await services(request).providers.check_spec(provider_spec(body))
    return json_response({"message": f"{body.provider_type} answers, and takes the key."})


@router.get("/{provider_id}", operation_id="retrieve_provider")
async def retrieve(request: Request, provider_id: ProviderId) -> Response:
    parts = services(request)
    if (config := _configured(parts, provider_id)) is not None:
        return json_response(_base(parts, config))
    return _added(parts, await parts.providers.get(provider_id))


@router.patch("/{provider_id}", operation_id="modify_provider")
async def modify(request: Request, provider_id: ProviderId, body: UpdateProvider) -> Response:
    """What is left out stays, and so does a key that is null. The name and the type cannot be changed."""
    parts = services(request)
    _refuse_configured(parts, provider_id)
    provider = await parts.providers.get(provider_id)
    for field, kept in (("name", provider.name), ("provider_type", provider.kind)):
        if getattr(body, field) not in (None, kept):
            raise Invalid(
                f"{field}: a provider keeps its {field}, as agents' handles depend on it. Add another provider."
            )
    return _added(parts, await parts.providers.update(provider_id, provider_change(body)))


@router.delete("/{provider_id}", operation_id="delete_provider")
async def delete(request: Request, provider_id: ProviderId) -> Response:
    parts = services(request)
    _refuse_configured(parts, provider_id)
    await parts.providers.delete(provider_id)
    return json_response({"message": f"Provider id={provider_id} successfully deleted"})


@router.post("/{provider_id}/check", operation_id="check_existing_provider")
async def check_existing(request: Request, provider_id: ProviderId) -> Response:
    """Ask it for its models now. A refused key is a 401, an address nobody answers at a 502."""
    name = await _ask(services(request), provider_id)
    return json_response({"message": f"{name} answers, and takes the key."})


@router.patch("/{provider_id}/refresh", operation_id="refresh_provider_models")
async def refresh(request: Request, provider_id: ProviderId) -> Response:
    """As check, answering the provider."""
    await _ask(services(request), provider_id)
    return await retrieve(request, provider_id)


async def _ask(parts: Services, provider_id: str) -> str:
    if (config := _configured(parts, provider_id)) is not None:
        await parts.registry.ask(config)
        return config.name
    return (await parts.providers.check(provider_id)).name


def _configured(parts: Services, provider_id: str) -> ProviderConfig | None:
    return next((config for config in parts.registry.base if base_id(config) == provider_id), None)


def _refuse_configured(parts: Services, provider_id: str) -> None:
    if (config := _configured(parts, provider_id)) is not None:
        raise Conflict(
            f"The server was configured with {config.name}: change its environment or its configuration file."
        )


def _added(parts: Services, provider: AddedProvider) -> Response:
    return json_response(_added_json(parts, provider))


def _added_json(parts: Services, provider: AddedProvider) -> dict[str, Any]:
    registry = parts.registry
    return added_json(provider, registry.errors.get(provider.name), registry.replicas(provider.name))


def _base(parts: Services, config: ProviderConfig) -> dict[str, Any]:
    return base_json(config, parts.registry.errors.get(config.name), parts.registry.replicas(config.name))
