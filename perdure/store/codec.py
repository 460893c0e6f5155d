"""Core values to rows and back.

A `body` column holds the whole value as JSON; whatever the database changes or orders by itself has a column, and the
column wins over the body when a row is read.
"""

from typing import Any

import msgspec

from perdure.core.agents import Agent, Block, Tool
from perdure.store.base import Row

_encode = msgspec.json.Encoder().encode
_agent = msgspec.json.Decoder(Agent).decode
_block = msgspec.json.Decoder(Block).decode
_tool = msgspec.json.Decoder(Tool).decode
_replace = msgspec.structs.replace

AGENT_COLUMNS = (
    "{0}.id, {0}.name, {0}.created_us, {0}.updated_us, {0}.revision, {0}.last_run_completed_us, "
    "{0}.last_run_duration_ms, {0}.last_stop_reason, {0}.body"
)
BLOCK_COLUMNS = "{0}.id, {0}.label, {0}.value, {0}.description, {0}.created_us, {0}.updated_us, {0}.version, {0}.body"


def agent_from_row(row: Row) -> Agent:
    """`row` begins with AGENT_COLUMNS."""
    return _replace(
        _agent(row[8]),
        name=row[1],
        created_us=row[2],
        updated_us=row[3],
        revision=row[4],
        last_run_completed_us=row[5],
        last_run_duration_ms=row[6],
        last_stop_reason=row[7],
    )


def agent_params(agent: Agent) -> dict[str, Any]:
    return {
        "id": agent.id,
        "name": agent.name,
        "created_us": agent.created_us,
        "updated_us": agent.updated_us,
        "revision": agent.revision,
        "last_run_completed_us": agent.last_run_completed_us,
        "last_run_duration_ms": agent.last_run_duration_ms,
        "last_stop_reason": agent.last_stop_reason,
        "project_id": agent.project_id,
        "hidden": int(bool(agent.hidden)),
        "body": _encode(agent),
    }


def block_from_row(row: Row) -> Block:
    """`row` begins with BLOCK_COLUMNS."""
    return _replace(
        _block(row[7]),
        label=row[1],
        value=row[2],
        description=row[3],
        created_us=row[4],
        updated_us=row[5],
        version=row[6],
    )


def block_params(block: Block) -> dict[str, Any]:
    return {
        "id": block.id,
        "label": block.label,
        "value": block.value,
        "description": block.description,
        "created_us": block.created_us,
        "updated_us": block.updated_us,
        "version": block.version,
        "project_id": block.extra.get("project_id"),
        "hidden": int(bool(block.hidden)),
        "is_template": int(block.is_template),
        "template_name": block.extra.get("template_name"),
        "body": _encode(_replace(block, value="")),
    }


def tool_from_row(row: Row) -> Tool:
    """`row` is (body,)."""
    return _tool(row[0])


def tool_params(tool: Tool) -> dict[str, Any]:
    return {
        "id": tool.id,
        "name": tool.name,
        "tool_type": tool.tool_type,
        "created_us": tool.created_us,
        "updated_us": tool.updated_us,
        "body": _encode(tool),
    }
