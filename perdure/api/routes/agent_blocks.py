"""An agent's blocks, by label."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import edit_blocks
from perdure.api.errors import json_response
from perdure.api.from_wire import block_change
from perdure.api.paging import AgentId, BlockId, Page100
from perdure.api.resources import agent_state, block_json
from perdure.api.services import services
from perdure.api.wire.blocks import UpdateBlock
from perdure.core.agents import Block
from perdure.store import agents as agent_store
from perdure.store import blocks as block_store
from perdure.store.agents import AgentView
from perdure.store.base import Tx
from perdure.store.listing import Page

router = APIRouter(prefix="/agents/{agent_id}/core-memory", tags=["agents"])


@router.get("/blocks", operation_id="list_core_memory_blocks")
async def list_blocks(request: Request, agent_id: AgentId, query: Annotated[Page100, Query()]) -> Response:
    found = await services(request).store.scan(lambda: _list(agent_id, query.page()))
    return json_response([block_json(block) for block in found])


def _list(agent_id: str, page: Page) -> Tx[list[Block]]:
    yield from agent_store.check_agent(agent_id)
    return (yield from block_store.list_blocks_of_agent(agent_id, page))


@router.patch("/blocks/attach/{block_id}", operation_id="attach_core_memory_block")
async def attach(request: Request, agent_id: AgentId, block_id: BlockId) -> Response:
    def tx() -> Tx[AgentView]:
        yield from edit_blocks.attach_block(agent_id, block_id)
        return (yield from agent_store.agent_view(agent_id))

    parts = services(request)
    return json_response(agent_state(await parts.store.write(tx), parts.vault))


@router.patch("/blocks/detach/{block_id}", operation_id="detach_core_memory_block")
async def detach(request: Request, agent_id: AgentId, block_id: BlockId) -> Response:
    def tx() -> Tx[AgentView]:
        yield from edit_blocks.detach_block(agent_id, block_id)
        return (yield from agent_store.agent_view(agent_id))

    parts = services(request)
    return json_response(agent_state(await parts.store.write(tx), parts.vault))


@router.get("/blocks/{block_label:path}", operation_id="retrieve_core_memory_block")
async def retrieve(request: Request, agent_id: AgentId, block_label: str) -> Response:
    block = await services(request).store.read(lambda: block_store.block_of_agent(agent_id, block_label))
    return json_response(block_json(block))


@router.patch("/blocks/{block_label:path}", operation_id="modify_core_memory_block")
async def modify(request: Request, agent_id: AgentId, block_label: str, body: UpdateBlock) -> Response:
    change = block_change(body)
    block = await services(request).store.write(
        lambda: edit_blocks.change_block_of_agent(agent_id, block_label, change)
    )
    return json_response(block_json(block))
