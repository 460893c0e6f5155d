"""Providers as clients send them. A key is taken as text, and never given back."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from perdure.api.paging import PageQuery


class ProviderKeys(BaseModel):
    """`access_key`: the id of an AWS key, whose secret is `api_key`. `base_url`: one address, or several of servers that serve
    the same models, as a list or with commas between. `models`, `context_window`: instead of asking it."""

    api_key: SecretStr | None = None
    access_key: SecretStr | None = None
    base_url: str | list[str] | None = None
    region: str | None = None
    api_version: str | None = None
    models: list[str] | None = None
    context_window: int | None = Field(None, ge=1)


class CreateProvider(ProviderKeys):
    name: str
    provider_type: str


class CheckProvider(ProviderKeys):
    provider_type: str


class UpdateProvider(ProviderKeys):
    name: str | None = None
    provider_type: str | None = None


class ListProvidersQuery(PageQuery):
    order_by: Literal["created_at"] = "created_at"
    name: str | None = None
    provider_type: str | None = None
    provider_category: list[Literal["base", "byok"]] | None = None
