"""Creating and changing blocks as a person does it; every agent that has the block is recompiled in the same transaction."""

import msgspec
from msgspec import UNSET

from perdure.agents.recompile import recompile_agents
from perdure.agents.spec import BlockChange, BlockSpec
from perdure.core.agents import Block
from perdure.core.errors import Invalid
from perdure.core.ids import new_id, now_us
from perdure.memory.blocks import DEFAULT_DESCRIPTIONS
from perdure.store import agents as agent_store
from perdure.store import blocks as block_store
from perdure.store.base import Query, Tx

MAX_LABEL = 255


def new_block(spec: BlockSpec, now: int, *, field: str = "value") -> Block:
    """The block to store. Invalid if its value is over its own limit, or it has no usable label."""
    check_label(spec.label)
    _check_limit(spec.value, spec.limit, field)
    return Block(
        id=new_id("block"),
        label=spec.label,
        value=spec.value,
        limit=spec.limit,
        description=spec.description if spec.description is not None else DEFAULT_DESCRIPTIONS.get(spec.label),
        read_only=spec.read_only,
        metadata=spec.metadata,
        tags=tuple(dict.fromkeys(spec.tags)),
        hidden=spec.hidden,
        is_template=spec.is_template,
        extra=spec.extra,
        created_us=now,
        updated_us=now,
    )


def check_label(label: str) -> None:
    if not label.strip() or len(label) > MAX_LABEL or any(char in label for char in "\n\r<>"):
        raise Invalid(
            f"label: {label!r} cannot label a block; use 1 to {MAX_LABEL} characters without line breaks, < and >",
            status=422,
        )


def _check_limit(value: str, limit: int, field: str) -> None:
    if limit < 1:
        raise Invalid(f"limit: must be at least 1, not {limit}", status=422)
    if len(value) > limit:
        raise Invalid(
            f"{field}: has {len(value)} characters, more than the block's limit of {limit}. Shorten it or raise `limit`."
        )


def create_block(spec: BlockSpec) -> Tx[Block]:
    block = new_block(spec, now_us())
    yield from block_store.create_block(block)
    return block


def change_block(block_id: str, change: BlockChange) -> Tx[Block]:
    block = yield from block_store.block_by_id(block_id)
    return (yield from _change(block, change))


def change_block_of_agent(agent_id: str, label: str, change: BlockChange) -> Tx[Block]:
    block = yield from block_store.block_of_agent(agent_id, label)
    return (yield from _change(block, change))


def _change(block: Block, change: BlockChange) -> Tx[Block]:
    fields = {
        key: value
        for key in change.__struct_fields__
        if key != "extra" and (value := getattr(change, key)) is not UNSET
    }
    if change.extra:
        fields["extra"] = block.extra | change.extra
    changed = msgspec.structs.replace(block, **fields, updated_us=now_us())
    if "label" in fields:
        check_label(changed.label)
    if "value" in fields or "limit" in fields:
        _check_limit(changed.value, changed.limit, "value" if "value" in fields else "limit")
    changed = yield from block_store.replace_block(changed)
    if _shown(changed) != _shown(block):
        yield Query("bump_agents_of_block", {"block_id": block.id, "now": changed.updated_us})
        agent_ids = yield from block_store.agents_of_block(block.id)
        yield from recompile_agents(agent_ids, f"block {changed.label} was edited")
    return changed


def _shown(block: Block) -> tuple[object, ...]:
    """What a prompt or a memory tool notices of a block."""
    return (block.value, block.label, block.description, block.limit, block.read_only)


def delete_block(block_id: str) -> Tx[None]:
    agent_ids = yield from block_store.delete_block(block_id)
    now = now_us()
    for agent_id in agent_ids:
        yield from agent_store.bump_agent(agent_id, now)
    yield from recompile_agents(agent_ids, "a block was deleted")


def attach_block(agent_id: str, block_id: str) -> Tx[None]:
    """Nothing happens if it is attached already. Conflict if the agent has another block of that label."""
    yield from agent_store.check_agent(agent_id)
    block = yield from block_store.block_by_id(block_id)
    if (yield from block_store.attach_block(agent_id, block)):
        yield from agent_store.bump_agent(agent_id, now_us())
        yield from recompile_agents([agent_id], f"block {block.label} was attached")


def detach_block(agent_id: str, block_id: str) -> Tx[None]:
    yield from agent_store.check_agent(agent_id)
    block = yield from block_store.block_by_id(block_id)
    yield from block_store.detach_block(agent_id, block_id)
    yield from agent_store.bump_agent(agent_id, now_us())
    yield from recompile_agents([agent_id], f"block {block.label} was detached")
