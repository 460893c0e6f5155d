"""Providers that users added. Their names are unique; who keeps them apart from configured ones is above the store."""

import msgspec

from perdure.core.errors import Conflict, NotFound
from perdure.core.providers import AddedProvider
from perdure.store.base import Query, Tx

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AddedProvider).decode


def insert_provider(provider: AddedProvider) -> Tx[None]:
    """Conflict for a name that another has."""
    params = {
        "id": provider.id,
        "name": provider.name,
        "created_us": provider.created_us,
        "body": _encode(provider),
    }
    if not (yield Query("insert_provider", params)):
        raise Conflict(
            f"name: there is a provider named {provider.name!r} already. Change that one, or choose another name."
        )


def replace_provider(provider: AddedProvider) -> Tx[None]:
    """All but its name, which handles are made of."""
    if not (yield Query("update_provider", {"id": provider.id, "body": _encode(provider)})):
        raise NotFound(f"Provider {provider.id} not found")


def provider_by_id(provider_id: str) -> Tx[AddedProvider]:
    rows = yield Query("provider_by_id", {"id": provider_id})
    if not rows:
        raise NotFound(f"Provider {provider_id} not found")
    return _decode(rows[0][0])


def all_providers() -> Tx[list[AddedProvider]]:
    """Oldest first."""
    rows = yield Query("all_providers")
    return [_decode(row[0]) for row in rows]


def delete_provider(provider_id: str) -> Tx[None]:
    if not (yield Query("delete_provider", {"id": provider_id})):
        raise NotFound(f"Provider {provider_id} not found")
