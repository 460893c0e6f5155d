"""Blocks as they are asked for."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from perdure.api.paging import Order, PageQuery
from perdure.core.agents import DEFAULT_BLOCK_LIMIT

TEMPLATE_FIELDS = (
    "project_id",
    "template_name",
    "template_id",
    "base_template_id",
    "deployment_id",
    "entity_id",
    "preserve_on_migration",
)


class _Block(BaseModel):
    model_config = ConfigDict(extra="ignore")

    description: str | None = None
    metadata: dict[str, Any] | None = None
    tags: list[str] | None = None
    hidden: bool | None = None
    project_id: str | None = None
    template_name: str | None = None
    template_id: str | None = None
    base_template_id: str | None = None
    deployment_id: str | None = None
    entity_id: str | None = None
    preserve_on_migration: bool | None = None


class CreateBlock(_Block):
    label: str
    value: str
    limit: int | None = Field(DEFAULT_BLOCK_LIMIT, ge=1)
    read_only: bool | None = False
    is_template: bool | None = False


class UpdateBlock(_Block):
    label: str | None = None
    value: str | None = None
    limit: int | None = Field(None, ge=1)
    read_only: bool | None = None
    is_template: bool | None = None


class ListBlocksQuery(PageQuery):
    order: Order = "asc"
    label: str | None = None
    templates_only: bool = False
    name: str | None = None
    identity_id: str | None = None
    identifier_keys: list[str] | None = None
    project_id: str | None = None
    tags: list[str] | None = None
    match_all_tags: bool = False
    label_search: str | None = None
    description_search: str | None = None
    value_search: str | None = None
    connected_to_agents_count_gt: int | None = None
    connected_to_agents_count_lt: int | None = None
    connected_to_agents_count_eq: list[int] | None = None
    show_hidden_blocks: bool = False
