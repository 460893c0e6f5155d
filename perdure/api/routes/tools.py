"""Tools by themselves."""

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import edit_tools
from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.run_tool import run_source
from perdure.api.errors import json_response
from perdure.api.from_wire import tool_change, tool_spec
from perdure.api.paging import ToolId
from perdure.api.resources import tool_json
from perdure.api.run_resources import tool_return_message
from perdure.api.services import services
from perdure.api.wire.tools import CreateTool, ListToolsQuery, RunToolFromSource, SearchTools, ToolType, UpdateTool
from perdure.core.errors import Invalid
from perdure.store import tools as tool_store
from perdure.store.listing import Page
from perdure.store.tools import ToolFilter

router = APIRouter(prefix="/tools", tags=["tools"])

TOOL_TYPES = frozenset(get_args(ToolType))


@router.post("", operation_id="create_tool")
async def create(request: Request, body: CreateTool) -> Response:
    return await _put(request, body)


@router.put("", operation_id="upsert_tool")
async def upsert(request: Request, body: CreateTool) -> Response:
    return await _put(request, body)


async def _put(request: Request, body: CreateTool) -> Response:
    spec = tool_spec(body)
    return json_response(tool_json(await services(request).store.write(lambda: edit_tools.put_tool(spec))))


@router.get("", operation_id="list_tools")
async def list_tools(request: Request, query: Annotated[ListToolsQuery, Query()]) -> Response:
    wanted = _filter(query)
    found = await services(request).store.scan(lambda: tool_store.list_tools(wanted, query.page()))
    return json_response([tool_json(tool) for tool in found])


@router.get("/count", operation_id="count_tools")
async def count(request: Request, query: Annotated[ListToolsQuery, Query()]) -> Response:
    wanted = _filter(query)
    found = await services(request).store.scan(lambda: tool_store.list_tools(wanted, Page(limit=None)))
    return json_response(len(found))


def _filter(query: ListToolsQuery) -> ToolFilter:
    return ToolFilter(
        name=query.name,
        names=_several(query.names),
        tool_ids=_several(query.tool_ids),
        search=query.search,
        tool_types=_types(query.tool_types, "tool_types"),
        exclude_tool_types=_types(query.exclude_tool_types, "exclude_tool_types"),
        only_built_in=bool(query.return_only_letta_tools),
    )


def _several(values: list[str] | None) -> tuple[str, ...] | None:
    """A parameter given several times, or once with commas."""
    if values is None:
        return None
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _types(values: list[str] | None, field: str) -> tuple[str, ...] | None:
    found = _several(values)
    for kind in found or ():
        if kind not in TOOL_TYPES:
            raise Invalid(f"{field}: {kind!r} is no tool type; use one of {', '.join(sorted(TOOL_TYPES))}")
    return found


@router.post("/search", operation_id="search_tools")
async def search(request: Request, body: SearchTools) -> Response:
    """Tools whose name, description or tags have the query's words, the ones with more of them first."""
    wanted = ToolFilter(tool_types=_types(body.tool_types, "tool_types"))
    found = await services(request).store.scan(lambda: tool_store.list_tools(wanted, Page(limit=None)))
    if body.tags:
        found = [tool for tool in found if not set(body.tags).isdisjoint(tool.tags)]
    ranked = edit_tools.ranked(found, body.query)[: body.limit]
    return json_response([_hit(rank, tool_json(tool), score) for rank, (tool, score) in enumerate(ranked, 1)])


def _hit(rank: int, tool: dict[str, Any], score: float) -> dict[str, Any]:
    return {"tool": tool, "embedded_text": None, "fts_rank": rank, "vector_rank": None, "combined_score": score}


@router.post("/run", operation_id="run_tool_from_source")
async def run_from_source(request: Request, body: RunToolFromSource) -> Response:
    requirements = [item.model_dump() for item in body.pip_requirements or ()]
    if (body.source_type or "python") != "python":
        raise Invalid(f"source_type: {body.source_type} code cannot be run here; only python can.")
    name, result = await run_source(
        services(request).sandbox,
        body.source_code,
        body.args,
        name=body.name or (body.json_schema or {}).get("name"),
        env=body.env_vars,
        pip_requirements=requirements,
    )
    return json_response(tool_return_message(name, result))


@router.post("/add-base-tools", operation_id="add_base_tools")
async def add_base_tools(request: Request) -> Response:
    """Makes sure that the built-in tools are there, and lists them."""
    store = services(request).store
    await ensure_builtin_tools(store)
    found = await store.read(tool_store.built_in_tools)
    return json_response([tool_json(tool) for tool in found.values()])


@router.get("/{tool_id}", operation_id="retrieve_tool")
async def retrieve(request: Request, tool_id: ToolId) -> Response:
    return json_response(tool_json(await services(request).store.read(lambda: tool_store.tool_by_id(tool_id))))


@router.patch("/{tool_id}", operation_id="modify_tool")
async def modify(request: Request, tool_id: ToolId, body: UpdateTool) -> Response:
    change = tool_change(body)
    return json_response(
        tool_json(await services(request).store.write(lambda: edit_tools.change_tool(tool_id, change)))
    )


@router.delete("/{tool_id}", operation_id="delete_tool")
async def delete(request: Request, tool_id: ToolId) -> Response:
    await services(request).store.write(lambda: edit_tools.delete_tool(tool_id))
    return json_response(None)
