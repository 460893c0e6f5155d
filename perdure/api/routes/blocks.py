"""Blocks by themselves, and who has them."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import edit_blocks
from perdure.api.errors import json_response
from perdure.api.from_wire import block_change, block_spec
from perdure.api.paging import BlockId, PageQuery, relations
from perdure.api.resources import agent_state, block_json
from perdure.api.services import services
from perdure.api.wire.agents import RetrieveAgentQuery
from perdure.api.wire.blocks import CreateBlock, ListBlocksQuery, UpdateBlock
from perdure.store import agents as agent_store
from perdure.store import blocks as block_store
from perdure.store.agents import AgentFilter, AgentView
from perdure.store.base import Tx
from perdure.store.blocks import BlockFilter

router = APIRouter(prefix="/blocks", tags=["blocks"])


class AgentsOfBlockQuery(PageQuery, RetrieveAgentQuery):
    pass


@router.post("", operation_id="create_block")
async def create(request: Request, body: CreateBlock) -> Response:
    spec = block_spec(body)
    return json_response(
        block_json(await services(request).store.write(lambda: edit_blocks.create_block(spec), quick=True))
    )


@router.get("", operation_id="list_blocks")
async def list_blocks(request: Request, query: Annotated[ListBlocksQuery, Query()]) -> Response:
    if query.identity_id or query.identifier_keys:
        return json_response([])
    wanted = BlockFilter(
        label=query.label,
        template_name=query.name,
        templates_only=query.templates_only,
        tags=tuple(query.tags or ()),
        match_all_tags=query.match_all_tags,
        project_id=query.project_id,
        label_search=query.label_search,
        description_search=query.description_search,
        value_search=query.value_search,
        agents_gt=query.connected_to_agents_count_gt,
        agents_lt=query.connected_to_agents_count_lt,
        agents_eq=tuple(query.connected_to_agents_count_eq or ()),
        with_hidden=query.show_hidden_blocks,
    )
    found = await services(request).store.scan(lambda: block_store.list_blocks(wanted, query.page()))
    return json_response([block_json(block) for block in found])


@router.get("/count", operation_id="count_blocks")
async def count(request: Request) -> Response:
    return json_response(await services(request).store.read(block_store.count_blocks))


@router.get("/{block_id}", operation_id="retrieve_block")
async def retrieve(request: Request, block_id: BlockId) -> Response:
    return json_response(block_json(await services(request).store.read(lambda: block_store.block_by_id(block_id))))


@router.patch("/{block_id}", operation_id="modify_block")
async def modify(request: Request, block_id: BlockId, body: UpdateBlock) -> Response:
    change = block_change(body)
    block = await services(request).store.write(lambda: edit_blocks.change_block(block_id, change), quick=True)
    return json_response(block_json(block))


@router.delete("/{block_id}", operation_id="delete_block")
async def delete(request: Request, block_id: BlockId) -> Response:
    await services(request).store.write(lambda: edit_blocks.delete_block(block_id))
    return json_response(None)


@router.get("/{block_id}/agents", operation_id="list_agents_for_block")
async def agents(request: Request, block_id: BlockId, query: Annotated[AgentsOfBlockQuery, Query()]) -> Response:
    shown = relations(request, list(query.include), query.include_relationships)

    def tx() -> Tx[list[AgentView]]:
        yield from block_store.block_by_id(block_id)
        return (
            yield from agent_store.list_agents(
                AgentFilter(block_id=block_id, with_hidden=True),
                query.page(),
                blocks=shown.blocks,
                tools=shown.tools,
                tags=shown.tags,
                pending=shown.pending,
            )
        )

    parts = services(request)
    return json_response([agent_state(view, parts.vault, shown) for view in await parts.store.scan(tx)])
