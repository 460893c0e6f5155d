"""Groups: made, looked at, changed, deleted. There is no route to send to one: send to its manager."""

from typing import Annotated

from fastapi import APIRouter, Query
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import groups as edits
from perdure.agents.groups import GroupChange, GroupSpec
from perdure.api.conversation_resources import cancellable_runs
from perdure.api.errors import json_response
from perdure.api.from_wire import manager_of
from perdure.api.paging import AgentId, GroupId, Page100
from perdure.api.resources import group_json
from perdure.api.services import services
from perdure.api.to_wire import letta_messages
from perdure.api.wire.groups import (
    CreateGroup,
    GroupsOfAgentQuery,
    ListGroupsQuery,
    UpdateGroup,
)
from perdure.store import groups as group_store
from perdure.store.agents import check_agent
from perdure.store.base import Tx
from perdure.store.groups import GroupFilter, GroupView

router = APIRouter(tags=["groups"])


@router.post("/groups", operation_id="create_group")
async def create(request: Request, body: CreateGroup) -> Response:
    spec = GroupSpec(
        agent_ids=tuple(body.agent_ids),
        description=body.description,
        manager=manager_of(body.manager_config),
        shared_block_ids=tuple(body.shared_block_ids or ()),
        project_id=body.project_id,
        hidden=body.hidden,
    )
    view = await services(request).store.write(lambda: edits.create_group(spec))
    return json_response(group_json(view.group, view.progress))


@router.get("/groups", operation_id="list_groups")
async def list_groups(request: Request, query: Annotated[ListGroupsQuery, Query()]) -> Response:
    wanted = GroupFilter(
        manager_type=query.manager_type, project_id=query.project_id, with_hidden=bool(query.show_hidden_groups)
    )
    views = await services(request).store.scan(lambda: group_store.list_groups(wanted, query.page()))
    return json_response([group_json(view.group, view.progress) for view in views])


@router.get("/groups/count", operation_id="count_groups")
async def count(request: Request) -> Response:
    return json_response(await services(request).store.read(group_store.count_groups))


@router.get("/groups/{group_id}", operation_id="retrieve_group")
async def retrieve(request: Request, group_id: GroupId) -> Response:
    view = await services(request).store.read(lambda: group_store.group_view(group_id))
    return json_response(group_json(view.group, view.progress))


@router.patch("/groups/{group_id}", operation_id="modify_group")
async def modify(request: Request, group_id: GroupId, body: UpdateGroup) -> Response:
    given = body.model_fields_set
    change = GroupChange(
        agent_ids=tuple(body.agent_ids) if body.agent_ids is not None else UNSET,
        description=body.description if body.description is not None else UNSET,
        manager=manager_of(body.manager_config) if body.manager_config is not None else UNSET,
        shared_block_ids=tuple(body.shared_block_ids) if body.shared_block_ids is not None else UNSET,
        project_id=body.project_id if "project_id" in given else UNSET,
        hidden=body.hidden if "hidden" in given else UNSET,
    )
    view = await services(request).store.write(lambda: edits.update_group(group_id, change))
    return json_response(group_json(view.group, view.progress))


@router.delete("/groups/{group_id}", operation_id="delete_group")
async def delete(request: Request, group_id: GroupId) -> Response:
    await services(request).store.write(lambda: edits.delete_group(group_id))
    return json_response({"message": f"Group id={group_id} successfully deleted"})


@router.get("/groups/{group_id}/messages", operation_id="list_group_messages")
async def messages(request: Request, group_id: GroupId, query: Annotated[Page100, Query()]) -> Response:
    """What was said in the group's conversations, in the order asked for."""
    found = await services(request).store.scan(lambda: group_store.group_messages(group_id, query.page("pos")))
    newest_first = query.order == "desc"
    return json_response(letta_messages(found[::-1] if newest_first else found, newest_first=newest_first))


@router.patch("/groups/{group_id}/reset-messages", operation_id="reset_group_messages")
async def reset_messages(request: Request, group_id: GroupId) -> Response:
    """The members begin anew; what they said is found no more."""
    parts = services(request)
    for conversation_id in await parts.store.read(lambda: group_store.conversations_of(group_id)):
        for run_id in await parts.store.read(lambda id=conversation_id: cancellable_runs(id)):
            await parts.runner.cancel(run_id)
    await parts.store.write(lambda: edits.reset_messages(group_id))
    return json_response(None)


@router.get("/agents/{agent_id}/groups", operation_id="list_groups_for_agent")
async def of_agent(request: Request, agent_id: AgentId, query: Annotated[GroupsOfAgentQuery, Query()]) -> Response:
    """Those it manages or is a member of."""
    wanted = GroupFilter(manager_type=query.manager_type, agent_id=agent_id, with_hidden=True)

    def tx() -> Tx[list[GroupView]]:
        yield from check_agent(agent_id)
        return (yield from group_store.list_groups(wanted, query.page()))

    return json_response([group_json(view.group, view.progress) for view in await services(request).store.scan(tx)])
