"""Archival memory: an agent's passages, and a search over everybody's."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import archive
from perdure.api.errors import json_response
from perdure.api.from_wire import time_us
from perdure.api.paging import AgentId, Limit, PassageId
from perdure.api.resources import passage_json
from perdure.api.services import services
from perdure.core.errors import Invalid
from perdure.memory.times import iso
from perdure.store import agents as agent_store
from perdure.store import passages as passage_store
from perdure.store.base import Tx
from perdure.store.codec import Passage
from perdure.store.listing import Page
from perdure.store.passages import PassageSearch

router = APIRouter(tags=["passages"])

TagMode = Literal["any", "all"]


class CreatePassage(BaseModel):
    text: str = Field(min_length=1)
    tags: list[str] | None = None
    created_at: str | None = None


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


@router.post("/agents/{agent_id}/archival-memory", operation_id="create_passage")
async def create(request: Request, agent_id: AgentId, body: CreatePassage) -> Response:
    """A list of the passages the text became; it is not cut up here, so of one."""
    created_us = time_us(body.created_at, "created_at")
    passage = await services(request).store.write(
        lambda: archive.insert(agent_id, body.text, tags=tuple(body.tags or ()), created_us=created_us)
    )
    return json_response([passage_json(passage)])


@router.get("/agents/{agent_id}/archival-memory", operation_id="list_passages")
async def list_passages(request: Request, agent_id: AgentId, query: Annotated[ListPassagesQuery, Query()]) -> Response:
    page = Page(before=query.before, after=query.after, limit=query.limit, descending=query.ascending is False)

    def tx() -> Tx[list[Passage]]:
        yield from agent_store.check_agent(agent_id)
        return (yield from passage_store.list_passages(agent_id, page, search=query.search))

    return json_response([passage_json(passage) for passage in await services(request).store.scan(tx)])


@router.get("/agents/{agent_id}/archival-memory/search", operation_id="search_archival_memory")
async def search_archive(
    request: Request, agent_id: AgentId, query: Annotated[SearchArchiveQuery, Query()]
) -> Response:
    """The passages that fit best; naive times are in the agent's timezone."""

    def tx() -> Tx[tuple[str, list[tuple[Passage, float]]]]:
        timezone = (yield from agent_store.agent_by_id(agent_id)).timezone
        wanted = PassageSearch(
            query=query.query,
            agent_id=agent_id,
            tags=tuple(query.tags or ()),
            match_all_tags=query.tag_match_mode == "all",
            from_us=time_us(query.start_datetime, "start_datetime", timezone=timezone),
            to_us=time_us(query.end_datetime, "end_datetime", end_of_day=True, timezone=timezone),
            limit=query.top_k or 5,
        )
        return timezone, (yield from passage_store.search_passages(wanted))

    timezone, found = await services(request).store.scan(tx)
    results: list[dict[str, Any]] = [
        {
            "id": passage.id,
            "timestamp": iso(passage.created_us, timezone),
            "content": passage.text,
            "tags": list(passage.tags),
        }
        for passage, _ in found
    ]
    return json_response({"results": results, "count": len(results)})


@router.delete("/agents/{agent_id}/archival-memory/{memory_id}", operation_id="delete_passage")
async def delete(request: Request, agent_id: AgentId, memory_id: PassageId) -> Response:
    await services(request).store.write(lambda: archive.delete(agent_id, memory_id))
    return json_response({"message": f"Memory id={memory_id} successfully deleted"})


@router.post("/passages/search", operation_id="search_passages")
async def search(request: Request, body: SearchPassages) -> Response:
    if body.agent_id is not None and body.archive_id is not None:
        raise Invalid("agent_id, archive_id: give one of them, not both", status=422)
    if body.archive_id is not None:
        return json_response([])
    wanted = PassageSearch(
        query=body.query or None,
        agent_id=body.agent_id,
        tags=tuple(body.tags or ()),
        match_all_tags=body.tag_match_mode == "all",
        from_us=time_us(body.start_date, "start_date"),
        to_us=time_us(body.end_date, "end_date", end_of_day=True),
        limit=body.limit,
    )
    found = await services(request).store.scan(lambda: passage_store.search_passages(wanted))
    return json_response(
        [{"passage": passage_json(passage), "score": score, "metadata": {}} for passage, score in found]
    )
