"""Blocks that belong to one conversation: copies of its agent's, seen by nobody else and gone with it."""

from collections.abc import Iterable

from perdure.core.agents import AgentBundle, Block
from perdure.core.conversations import bundle_in
from perdure.store.agents import agent_bundle
from perdure.store.base import Query, Tx
from perdure.store.blocks import agents_of_block, create_block, delete_block
from perdure.store.codec import block_from_row
from perdure.store.conversations import ConversationState


def conversation_bundle(state: ConversationState) -> Tx[AgentBundle]:
    """The agent as it is in this conversation."""
    bundle = yield from agent_bundle(state.agent_id)
    private = (yield from private_blocks(state.id)) if state.settings.isolated else ()
    return bundle_in(bundle, state.settings, private)


def private_blocks(conversation_id: str) -> Tx[tuple[Block, ...]]:
    """In the order they were copied or made."""
    rows = yield Query("private_blocks", {"conversation_id": conversation_id})
    return tuple(block_from_row(row) for row in rows)


def add_private_blocks(conversation_id: str, blocks: Iterable[Block]) -> Tx[None]:
    for block in blocks:
        yield from create_block(block)
        yield Query("add_private_block", {"conversation_id": conversation_id, "block_id": block.id})


def remove_private_block(conversation_id: str, block_id: str) -> Tx[bool]:
    """False if the block is not the conversation's own; nothing is changed then."""
    params = {"conversation_id": conversation_id, "block_id": block_id}
    if not (yield Query("remove_private_block", params)):
        return False
    yield from _delete_unless_attached(block_id)
    return True


def delete_private_blocks(conversation_id: str) -> Tx[None]:
    blocks = yield from private_blocks(conversation_id)
    yield Query("delete_private_links", {"conversation_id": conversation_id})
    for block in blocks:
        yield from _delete_unless_attached(block.id)


def _delete_unless_attached(block_id: str) -> Tx[None]:
    """One that somebody has attached to an agent meanwhile is shared by now, and stays."""
    if not (yield from agents_of_block(block_id)):
        yield from delete_block(block_id)
