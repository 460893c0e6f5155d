"""An agent's tools: list, attach, detach, approval, and running one by hand."""

from typing import Annotated

from fastapi import APIRouter, Body, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import edit_tools
from perdure.agents.run_tool import run_tool_of_agent
from perdure.api.errors import json_response
from perdure.api.paging import AgentId, ToolId, is_old_client
from perdure.api.resources import agent_state, tool_json
from perdure.api.run_resources import execution_result
from perdure.api.services import services
from perdure.api.wire.tools import AgentToolsQuery, RunTool, SetApproval
from perdure.core.agents import Tool
from perdure.core.errors import Invalid
from perdure.store import agents as agent_store
from perdure.store import tools as tool_store
from perdure.store.base import Tx
from perdure.store.listing import Page

router = APIRouter(prefix="/agents/{agent_id}/tools", tags=["agents"])


@router.get("", operation_id="list_tools_for_agent")
async def list_tools(request: Request, agent_id: AgentId, query: Annotated[AgentToolsQuery, Query()]) -> Response:
    found = await services(request).store.scan(lambda: _list(agent_id, query.page()))
    return json_response([tool_json(tool) for tool in found])


def _list(agent_id: str, page: Page) -> Tx[list[Tool]]:
    yield from agent_store.check_agent(agent_id)
    return (yield from tool_store.list_tools_of_agent(agent_id, page))


@router.patch("/attach/{tool_id}", operation_id="attach_tool_to_agent")
async def attach(request: Request, agent_id: AgentId, tool_id: ToolId) -> Response:
    await services(request).store.write(lambda: edit_tools.attach_tool(agent_id, tool_id))
    return await _changed(request, agent_id)


@router.patch("/detach/{tool_id}", operation_id="detach_tool_from_agent")
async def detach(request: Request, agent_id: AgentId, tool_id: ToolId) -> Response:
    await services(request).store.write(lambda: edit_tools.detach_tool(agent_id, tool_id))
    return await _changed(request, agent_id)


@router.patch("/approval/{tool_name}", operation_id="modify_approval_for_tool")
async def set_approval(
    request: Request,
    agent_id: AgentId,
    tool_name: str,
    body: Annotated[SetApproval | None, Body()] = None,
    requires_approval: Annotated[bool | None, Query(deprecated=True)] = None,
) -> Response:
    required = body.requires_approval if body is not None else requires_approval
    if required is None:
        raise Invalid("requires_approval: Field required", status=422)
    await services(request).store.write(lambda: edit_tools.set_approval(agent_id, tool_name, required))
    return await _changed(request, agent_id)


async def _changed(request: Request, agent_id: str) -> Response:
    """null, or to clients of before 1.0 the whole agent."""
    if not is_old_client(request):
        return json_response(None)
    parts = services(request)
    return json_response(agent_state(await parts.store.read(lambda: agent_store.agent_view(agent_id)), parts.vault))


@router.post("/{tool_name}/run", operation_id="run_tool_for_agent")
async def run(
    request: Request, agent_id: AgentId, tool_name: str, body: Annotated[RunTool | None, Body()] = None
) -> Response:
    parts = services(request)
    args = body.args if body is not None else {}
    return json_response(
        execution_result(
            await run_tool_of_agent(
                parts.store, parts.sandbox, parts.vault, agent_id, tool_name, args, searcher=parts.search
            )
        )
    )
