"""Archives, passages and their searches as clients send them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perdure.api.paging import Limit, PageQuery

TagMode = Literal["any", "all"]


class EmbeddingConfig(BaseModel):
    """How older clients name an embedding model. Where it is served is the provider's own setting."""

    model_config = ConfigDict(extra="allow")

    handle: str | None = None
    embedding_endpoint_type: str | None = None
    embedding_model: str | None = None
    embedding_dim: int | None = None


class CreateArchive(BaseModel):
    name: str
    description: str | None = None
    embedding: str | None = None
    embedding_config: EmbeddingConfig | None = None
    metadata: dict[str, Any] | None = None


class UpdateArchive(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None


class ListArchivesQuery(PageQuery):
    order_by: Literal["created_at"] = "created_at"
    name: str | None = None
    agent_id: str | None = None


class CreatePassage(BaseModel):
    text: str
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None
    created_at: str | None = None


class CreatePassages(BaseModel):
    passages: list[CreatePassage]


class UpdatePassage(BaseModel):
    text: str | None = None
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None


class ListPassagesQuery(BaseModel):
    after: str | None = None
    before: str | None = None
    limit: Limit = 100
    search: str | None = None
    ascending: bool | None = True


class SearchArchiveQuery(BaseModel):
    query: str
    tags: list[str] | None = None
    tag_match_mode: TagMode = "any"
    top_k: int | None = Field(None, ge=1, le=1000)
    start_datetime: str | None = None
    end_datetime: str | None = None


class SearchPassages(BaseModel):
    query: str | None = None
    agent_id: str | None = None
    archive_id: str | None = None
    tags: list[str] | None = None
    tag_match_mode: TagMode = "any"
    limit: int = Field(50, ge=1, le=100)
    start_date: str | None = None
    end_date: str | None = None
