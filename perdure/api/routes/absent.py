"""Resources this server has none of: reading them is an empty success, so that clients that look are not stopped.

Making one is refused in plain words.
"""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.errors import json_response
from perdure.api.paging import AgentId
from perdure.api.services import services
from perdure.store.agents import check_agent

router = APIRouter(tags=["absent"])

_LISTS = {
    "folders": "list_folders",
    "identities": "list_identities",
    "jobs": "list_jobs",
    "jobs/active": "list_active_jobs",
    "mcp-servers": "mcp_list_mcp_servers",
    "sandbox-config": "list_sandbox_configs",
    "sources": "list_sources",
}
_COUNTS = {"folders/count": "count_folders", "identities/count": "count_identities"}
_CREATE = {
    "folders": "create_folder",
    "identities": "create_identity",
    "mcp-servers": "mcp_create_mcp_server",
}
_OF_AN_AGENT = {
    "folders": "list_folders_for_agent",
    "sources": "list_sources_for_agent",
    "identities": "list_identities_for_agent",
}


async def _empty_list() -> Response:
    return json_response([])


async def _zero() -> Response:
    return json_response(0)


async def _empty_of_agent(request: Request, agent_id: AgentId) -> Response:
    await services(request).store.read(lambda: check_agent(agent_id))
    return json_response([])


def _refusal(resource: str) -> Any:
    async def refuse() -> Response:
        detail = f"This server has no {resource} yet: they can be listed (there are none), but not made."
        return json_response({"detail": detail}, 501, {"x-should-retry": "false"})

    return refuse


for _path, _operation in _LISTS.items():
    router.add_api_route(f"/{_path}", _empty_list, methods=["GET"], operation_id=_operation)
for _path, _operation in _COUNTS.items():
    router.add_api_route(f"/{_path}", _zero, methods=["GET"], operation_id=_operation)
for _path, _operation in _CREATE.items():
    router.add_api_route(f"/{_path}", _refusal(_path), methods=["POST"], operation_id=_operation)
for _path, _operation in _OF_AN_AGENT.items():
    router.add_api_route(f"/agents/{{agent_id}}/{_path}", _empty_of_agent, methods=["GET"], operation_id=_operation)


@router.get("/agents/{agent_id}/files", operation_id="list_files_for_agent")
async def files(request: Request, agent_id: AgentId) -> Response:
    await services(request).store.read(lambda: check_agent(agent_id))
    return json_response({"files": [], "next_cursor": None, "has_more": False})


@router.patch("/agents/{agent_id}/files/close-all", operation_id="close_all_files_for_agent")
async def close_all_files(request: Request, agent_id: AgentId) -> Response:
    """The names of the files it closed: there are none open."""
    return await _empty_of_agent(request, agent_id)
