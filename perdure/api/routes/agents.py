"""Agents: create, look at, change, delete, recompile."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents.create import create_agent
from perdure.agents.recompile import compiled_text, recompile
from perdure.agents.update import update_agent
from perdure.api.errors import json_response
from perdure.api.from_wire import agent_change, agent_spec
from perdure.api.input_messages import input_messages
from perdure.api.message_requests import SendRequest
from perdure.api.paging import AgentId, relations
from perdure.api.resources import agent_state
from perdure.api.services import services
from perdure.api.wire.agents import CreateAgent, ListAgentsQuery, RecompileQuery, RetrieveAgentQuery, UpdateAgent
from perdure.core.errors import Invalid
from perdure.core.ids import DEFAULT_USER_ID, now_us
from perdure.core.messages import Message
from perdure.store import agents as agent_store
from perdure.store.agents import AgentFilter
from perdure.store.listing import Page

router = APIRouter(tags=["agents"])

_ORDER_COLUMNS = {
    "created_at": "created_us",
    "updated_at": "updated_us",
    "last_run_completion": "last_run_completed_us",
}


@router.post("/agents", operation_id="create_agent")
async def create(request: Request, body: CreateAgent) -> Response:
    parts = services(request)
    view = await create_agent(
        parts.store,
        parts.registry,
        agent_spec(body, parts.vault.seal_all),
        default_model=parts.settings.default_model,
        first_messages=_first_messages(body.initial_message_sequence),
    )
    return json_response(agent_state(view, parts.vault))


def _first_messages(items: list[dict[str, Any]] | None) -> tuple[Message, ...] | None:
    if not items:
        return None if items is None else ()
    try:
        found, _ = input_messages(SendRequest(messages=items), agent_id="", conversation_id="", run_id="", now=now_us())
    except Invalid as error:
        message = error.message.replace("messages[", "initial_message_sequence[", 1)
        raise Invalid(message, status=error.status) from error
    return found


@router.get("/agents", operation_id="list_agents")
async def list_agents(request: Request, query: Annotated[ListAgentsQuery, Query()]) -> Response:
    if query.template_id or query.base_template_id or query.identity_id or query.identifier_keys:
        return json_response([])
    if query.created_by_id not in (None, DEFAULT_USER_ID):
        return json_response([])
    shown = relations(request, list(query.include), query.include_relationships)
    wanted = AgentFilter(
        name=query.name,
        tags=tuple(query.tags or ()),
        match_all_tags=query.match_all_tags,
        query_text=query.query_text,
        project_id=query.project_id,
        last_stop_reason=query.last_stop_reason,
        with_hidden=query.show_hidden_agents,
    )
    page = Page(
        before=query.before,
        after=query.after,
        limit=query.limit,
        descending=not query.ascending if query.ascending is not None else query.order == "desc",
        order_by=_ORDER_COLUMNS[query.sort_by or query.order_by],
    )
    parts = services(request)
    views = await parts.store.scan(
        lambda: agent_store.list_agents(
            wanted,
            page,
            blocks=shown.blocks,
            tools=shown.tools,
            tags=shown.tags,
            pending=shown.pending,
            groups=shown.group,
        )
    )
    return json_response([agent_state(view, parts.vault, shown) for view in views])


@router.get("/agents/count", operation_id="count_agents")
async def count(request: Request) -> Response:
    return json_response(await services(request).store.read(agent_store.count_agents))


@router.get("/agents/{agent_id}", operation_id="retrieve_agent")
async def retrieve(request: Request, agent_id: AgentId, query: Annotated[RetrieveAgentQuery, Query()]) -> Response:
    shown = relations(request, list(query.include), query.include_relationships)
    parts = services(request)
    view = await parts.store.read(lambda: agent_store.agent_view(agent_id, pending=shown.pending))
    return json_response(agent_state(view, parts.vault, shown))


@router.patch("/agents/{agent_id}", operation_id="modify_agent")
async def modify(request: Request, agent_id: AgentId, body: UpdateAgent) -> Response:
    parts = services(request)
    view = await update_agent(parts.store, parts.registry, agent_id, agent_change(body, parts.vault.seal_all))
    return json_response(agent_state(view, parts.vault))


@router.delete("/agents/{agent_id}", operation_id="delete_agent")
async def delete(request: Request, agent_id: AgentId) -> Response:
    await services(request).store.write(lambda: agent_store.delete_agent(agent_id))
    return json_response({"message": f"Agent id={agent_id} successfully deleted"})


@router.post("/agents/{agent_id}/recompile", operation_id="recompile_agent")
async def recompile_prompt(request: Request, agent_id: AgentId, query: Annotated[RecompileQuery, Query()]) -> Response:
    """The compiled system prompt. `dry_run` leaves the stored one alone."""
    store = services(request).store
    if query.dry_run:
        return json_response(await store.read(lambda: compiled_text(agent_id)))
    text = await store.write(lambda: recompile(agent_id, "it was asked for", touch_time=query.update_timestamp))
    return json_response(text)
