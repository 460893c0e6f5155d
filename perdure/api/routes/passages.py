"""Archival memory as an agent has it, and a search over everybody's."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import archive as edits
from perdure.agents.archive import PassageChange, PassageSpec
from perdure.api.archive_resources import archival_hit_json, found_json, passage_json, search_headers
from perdure.api.errors import json_response
from perdure.api.from_wire import time_us
from perdure.api.paging import AgentId, PassageId
from perdure.api.services import services
from perdure.api.wire.archives import (
    CreatePassage,
    ListPassagesQuery,
    SearchArchiveQuery,
    SearchPassages,
    UpdatePassage,
)
from perdure.core.archives import Passage
from perdure.core.errors import Invalid
from perdure.store import agents as agent_store
from perdure.store import passages as passage_store
from perdure.store.archives import archive_by_id, archive_ids_of_agent
from perdure.store.base import Tx
from perdure.store.listing import Page
from perdure.store.passage_search import PassageSearch

router = APIRouter(tags=["passages"])


def passage_spec(body: CreatePassage, field: str = "created_at") -> PassageSpec:
    return PassageSpec(
        text=body.text,
        tags=tuple(body.tags or ()),
        metadata=body.metadata or {},
        created_us=time_us(body.created_at, field),
    )


def passage_change(body: UpdatePassage) -> PassageChange:
    """null leaves a field as it is."""
    given = {key: value for key, value in body.model_dump().items() if value is not None}
    if "tags" in given:
        given["tags"] = tuple(given["tags"])
    return PassageChange(**given)


def passages_page(query: ListPassagesQuery) -> Page:
    return Page(before=query.before, after=query.after, limit=query.limit, descending=query.ascending is False)


@router.post("/agents/{agent_id}/archival-memory", operation_id="create_passage")
async def create(request: Request, agent_id: AgentId, body: CreatePassage) -> Response:
    """A list of the passages the text became; it is not cut up here, so of one."""
    spec = passage_spec(body)
    parts = services(request)
    passage = await parts.store.write(lambda: edits.file_for_agent(agent_id, spec))
    parts.search.filed()
    return json_response([passage_json(passage)])


@router.get("/agents/{agent_id}/archival-memory", operation_id="list_passages")
async def list_passages(request: Request, agent_id: AgentId, query: Annotated[ListPassagesQuery, Query()]) -> Response:
    """Of all archives the agent has, by time."""

    def tx() -> Tx[list[Passage]]:
        yield from agent_store.check_agent(agent_id)
        return (yield from passage_store.list_passages_of_agent(agent_id, passages_page(query), search=query.search))

    return json_response([passage_json(passage) for passage in await services(request).store.scan(tx)])


@router.get("/agents/{agent_id}/archival-memory/search", operation_id="search_archival_memory")
async def search_archive(
    request: Request, agent_id: AgentId, query: Annotated[SearchArchiveQuery, Query()]
) -> Response:
    """The passages that fit best; naive times are in the agent's timezone."""
    parts = services(request)
    timezone = (await parts.store.read(lambda: agent_store.agent_by_id(agent_id))).timezone
    wanted = PassageSearch(
        query=query.query,
        tags=tuple(query.tags or ()),
        match_all_tags=query.tag_match_mode == "all",
        from_us=time_us(query.start_datetime, "start_datetime", timezone=timezone),
        to_us=time_us(query.end_datetime, "end_datetime", end_of_day=True, timezone=timezone),
        limit=query.top_k or 5,
    )
    outcome = await parts.search.passages_of_agent(agent_id, wanted)
    results = [archival_hit_json(hit, timezone) for hit in outcome.found]
    return json_response({"results": results, "count": len(results)}, headers=search_headers(outcome))


@router.patch("/agents/{agent_id}/archival-memory/{memory_id}", operation_id="modify_passage")
async def modify(request: Request, agent_id: AgentId, memory_id: PassageId, body: UpdatePassage) -> Response:
    wanted = passage_change(body)
    parts = services(request)
    passage = await parts.store.write(lambda: edits.change_passage_of_agent(agent_id, memory_id, wanted))
    parts.search.filed()
    return json_response([passage_json(passage)])


@router.delete("/agents/{agent_id}/archival-memory/{memory_id}", operation_id="delete_passage")
async def delete(request: Request, agent_id: AgentId, memory_id: PassageId) -> Response:
    await services(request).store.write(lambda: edits.delete_passage_of_agent(agent_id, memory_id))
    return json_response({"message": f"Memory id={memory_id} successfully deleted"})


@router.post("/passages/search", operation_id="search_passages")
async def search(request: Request, body: SearchPassages) -> Response:
    """Of one agent's archives, of one archive, or of all there are."""
    if body.agent_id is not None and body.archive_id is not None:
        raise Invalid("agent_id, archive_id: give one of them, not both", status=422)

    def among() -> Tx[tuple[str, ...] | None]:
        if body.archive_id is not None:
            return ((yield from archive_by_id(body.archive_id)).id,)
        if body.agent_id is not None:
            yield from agent_store.check_agent(body.agent_id)
            return tuple((yield from archive_ids_of_agent(body.agent_id)))
        return None

    parts = services(request)
    wanted = PassageSearch(
        query=body.query or None,
        archive_ids=await parts.store.read(among),
        tags=tuple(body.tags or ()),
        match_all_tags=body.tag_match_mode == "all",
        from_us=time_us(body.start_date, "start_date"),
        to_us=time_us(body.end_date, "end_date", end_of_day=True),
        limit=body.limit,
    )
    outcome = await parts.search.passages(wanted)
    return json_response([found_json(hit) for hit in outcome.found], headers=search_headers(outcome))
