"""Blocks and their attachment to agents. An agent has at most one block of a label."""

from collections.abc import Sequence

import msgspec

from perdure.core.agents import Block
from perdure.core.errors import Conflict, NotFound, StaleBlock
from perdure.store.base import Built, Query, Tx
from perdure.store.codec import BLOCK_COLUMNS, block_from_row, block_params
from perdure.store.listing import Filters, Page, Source, contains, list_rows
from perdure.store.tags import add_tags, filter_by_tags, set_tags

_BLOCKS = Source(BLOCK_COLUMNS.format("b"), "blocks", "b")
_ATTACHED = Source(BLOCK_COLUMNS.format("b"), "blocks", "b", "JOIN agent_blocks ab ON ab.block_id = b.id")


class BlockFilter(msgspec.Struct, frozen=True, kw_only=True):
    """None: not filtered by. `label` asks for the exact label, the searches for text that is contained."""

    label: str | None = None
    template_name: str | None = None
    templates_only: bool = False
    tags: tuple[str, ...] = ()
    match_all_tags: bool = False
    project_id: str | None = None
    label_search: str | None = None
    description_search: str | None = None
    value_search: str | None = None
    agents_gt: int | None = None
    agents_lt: int | None = None
    agents_eq: tuple[int, ...] = ()
    with_hidden: bool = False


def create_block(block: Block) -> Tx[None]:
    yield Query("add_block", block_params(block))
    yield from add_tags("block", block.id, block.tags)


def block_by_id(block_id: str) -> Tx[Block]:
    rows = yield Query("block_by_id", {"id": block_id})
    if not rows:
        raise NotFound(f"Block {block_id} not found")
    return block_from_row(rows[0])


def block_of_agent(agent_id: str, label: str) -> Tx[Block]:
    """NotFound also names the labels there are."""
    rows = yield Query("block_of_agent", {"agent_id": agent_id, "label": label})
    if rows:
        return block_from_row(rows[0])
    if not (yield Query("agent_exists", {"id": agent_id})):
        raise NotFound("Agent not found")
    blocks = yield from blocks_of_agent(agent_id)
    labels = ", ".join(block.label for block in blocks) or "none"
    raise NotFound(f"Agent {agent_id} has no block labelled {label!r}; its blocks are: {labels}")


def blocks_of_agent(agent_id: str) -> Tx[tuple[Block, ...]]:
    """In order of attachment."""
    rows = yield Query("blocks_of_agent", {"agent_id": agent_id})
    return tuple(block_from_row(row) for row in rows)


def replace_block(block: Block) -> Tx[Block]:
    """Write an edit of the version it was computed from. StaleBlock if there is a newer one; Conflict for a label that
    another block of one of its agents has."""
    rows = yield Query("label_clash", {"block_id": block.id, "label": block.label})
    if rows:
        raise Conflict(f"Agent {rows[0][0]}, which has this block, already has another block labelled {block.label!r}")
    rows = yield Query("change_block", block_params(block))
    if not rows:
        raise StaleBlock(block.id)
    yield Query("relabel_attached_block", {"block_id": block.id, "label": block.label})
    yield from set_tags("block", block.id, block.tags)
    return msgspec.structs.replace(block, version=rows[0][0])


def delete_block(block_id: str) -> Tx[list[str]]:
    """Delete the block wherever it is attached; answers the agents that had it."""
    agent_ids = yield from agents_of_block(block_id)
    if not (yield Query("delete_block", {"id": block_id})):
        raise NotFound(f"Block {block_id} not found")
    yield Query("delete_block_links", {"block_id": block_id})
    yield Query("delete_private_link", {"block_id": block_id})
    yield Query("delete_tags", {"kind": "block", "entity_id": block_id})
    return agent_ids


def attach_block(agent_id: str, block: Block) -> Tx[bool]:
    """False if it was attached already; Conflict if the agent has another block of that label."""
    rows = yield Query("attached_label", {"agent_id": agent_id, "label": block.label})
    if rows:
        if rows[0][0] == block.id:
            return False
        raise Conflict(
            f"Agent {agent_id} already has a block labelled {block.label!r} ({rows[0][0]}). Detach it or choose another label."
        )
    yield Query("attach_block", {"agent_id": agent_id, "block_id": block.id, "label": block.label})
    return True


def detach_block(agent_id: str, block_id: str) -> Tx[None]:
    if not (yield Query("detach_block", {"agent_id": agent_id, "block_id": block_id})):
        raise NotFound(f"Block {block_id} is not attached to agent {agent_id}")


def agents_of_block(block_id: str) -> Tx[list[str]]:
    rows = yield Query("agents_of_block", {"block_id": block_id})
    return [row[0] for row in rows]


def list_blocks(wanted: BlockFilter, page: Page) -> Tx[list[Block]]:
    filters = Filters()
    if wanted.label is not None:
        filters.add("b.label = :label", label=wanted.label)
    if wanted.templates_only:
        filters.add("b.is_template = 1")
    if wanted.template_name is not None:
        filters.add("b.template_name = :template_name", template_name=wanted.template_name)
    if not wanted.with_hidden:
        filters.add("b.hidden = 0")
    if wanted.project_id is not None:
        filters.add("b.project_id = :project_id", project_id=wanted.project_id)
    if wanted.tags:
        filter_by_tags(filters, "block", "b.id", list(wanted.tags), match_all=wanted.match_all_tags)
    for column in ("label", "description", "value"):
        if text := getattr(wanted, f"{column}_search"):
            filters.add(f"LOWER(b.{column}) LIKE LOWER(:in_{column}) ESCAPE '!'", **{f"in_{column}": contains(text)})
    _filter_by_agent_count(filters, wanted)
    rows = yield from list_rows(_BLOCKS, filters, page, what="Block")
    return [block_from_row(row) for row in rows]


def _filter_by_agent_count(filters: Filters, wanted: BlockFilter) -> None:
    count = "(SELECT COUNT(*) FROM agent_blocks ab WHERE ab.block_id = b.id)"
    if wanted.agents_gt is not None:
        filters.add(f"{count} > :agents_gt", agents_gt=wanted.agents_gt)
    if wanted.agents_lt is not None:
        filters.add(f"{count} < :agents_lt", agents_lt=wanted.agents_lt)
    if wanted.agents_eq:
        filters.add_in(count, "agents_eq", wanted.agents_eq)


def list_blocks_of_agent(agent_id: str, page: Page) -> Tx[list[Block]]:
    filters = Filters()
    filters.add("ab.agent_id = :agent_id", agent_id=agent_id)
    rows = yield from list_rows(_ATTACHED, filters, page, what="Block")
    return [block_from_row(row) for row in rows]


def blocks_of_agents(agent_ids: Sequence[str]) -> Tx[dict[str, list[Block]]]:
    """The blocks of several agents at once, in order of attachment."""
    found: dict[str, list[Block]] = {agent_id: [] for agent_id in agent_ids}
    filters = Filters()
    filters.add_in("ab.agent_id", "agent", list(agent_ids))
    rows = yield Built(
        f"SELECT {_ATTACHED.columns}, ab.agent_id FROM blocks b {_ATTACHED.joins} WHERE {filters.conditions[0]} "
        "ORDER BY ab.position",
        filters.params,
    )
    for row in rows:
        found[row[8]].append(block_from_row(row))
    return found


def count_blocks() -> Tx[int]:
    rows = yield Query("count_blocks")
    return rows[0][0]
