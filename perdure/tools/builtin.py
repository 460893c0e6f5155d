"""Carries out the built-in tools: memory edits, searches, archival memory.

Every call is answered. An edit counts only as an effect in the step's context, where the next call of the step sees it.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from perdure.core.agents import Tool
from perdure.core.errors import ToolError
from perdure.core.ids import new_id
from perdure.core.messages import ToolCall, ToolReturn
from perdure.memory import blocks as edits
from perdure.memory.blocks import EditResult
from perdure.memory.patch import memory_apply_patch
from perdure.memory.paths import memory
from perdure.memory.times import end_us, iso, start_us
from perdure.tools import multi_agent
from perdure.tools.base import PassageInsert, TagMatch, ToolContext
from perdure.tools.calls import truncated
from perdure.tools.definitions import BUILTIN_TOOLS, Definition

log = logging.getLogger(__name__)

DEFAULT_RESULTS = 5
MOST_RESULTS = 100
MAX_PASSAGE_CHARS = 32_768
ERROR_CHARS = 1_000
SHOWN_MESSAGE_CHARS = 2_000
SENT = "Message sent."

EDITS: Mapping[str, Callable[..., EditResult]] = {
    "core_memory_append": edits.core_memory_append,
    "core_memory_replace": edits.core_memory_replace,
    "memory": memory,
    "memory_apply_patch": memory_apply_patch,
    "memory_insert": edits.memory_insert,
    "memory_replace": edits.memory_replace,
    "memory_rethink": edits.memory_rethink,
}


class BuiltinTools:
    async def run(self, call: ToolCall, tool: Tool, args: dict[str, Any], context: ToolContext) -> ToolReturn:
        try:
            definition = BUILTIN_TOOLS.get(tool.name)
            if definition is None:
                raise ToolError(f"{tool.name} is not a tool this server can run.")
            # what may be said is its agent's own business, and checked by then
            given = args if tool.name == "send_message" and "message" in args else _checked(definition, args)
            text = await _run(definition, given, context)
        except ToolError as error:
            return _answer(call, "error", error.message)
        except Exception as error:
            log.exception("built-in tool %s failed", tool.name)
            reason = f"Error executing function {tool.name}: {type(error).__name__}: {error}"
            return _answer(call, "error", truncated(reason, ERROR_CHARS))
        # A memory edit's return is the block itself, which has a limit of its own.
        return _answer(call, "success", text if tool.name in EDITS else truncated(text, tool.return_char_limit))


async def _run(definition: Definition, args: dict[str, Any], context: ToolContext) -> str:
    edit = EDITS.get(definition.name)
    if edit is None:
        return await _OTHERS[definition.name](context, **args)
    result = edit(context.blocks, **args)
    context.blocks = edits.applied(context.blocks, result.edits)
    context.effects.extend(result.edits)
    return result.text


async def _finish_edits(context: ToolContext) -> str:
    return edits.memory_finish_edits().text


async def _send_message(context: ToolContext, message: Any) -> str:
    return SENT


async def _archival_insert(context: ToolContext, content: str, tags: Sequence[str] = ()) -> str:
    if not content.strip():
        raise ToolError("content is empty: there is nothing to remember.")
    if len(content) > MAX_PASSAGE_CHARS:
        raise ToolError(
            f"content has {len(content)} characters, {len(content) - MAX_PASSAGE_CHARS} more than a passage may have "
            f"({MAX_PASSAGE_CHARS}). Split it into several."
        )
    kept = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    passage = PassageInsert(id=new_id("passage"), text=content, tags=kept)
    context.effects.append(passage)
    return f"Filed in archival memory as {passage.id}." + (f" Tags: {', '.join(kept)}." if kept else "")


async def _archival_search(
    context: ToolContext,
    query: str,
    tags: Sequence[str] = (),
    tag_match_mode: TagMatch = "any",
    top_k: int = DEFAULT_RESULTS,
    start_datetime: str | None = None,
    end_datetime: str | None = None,
) -> str:
    count = _count("top_k", top_k)
    start = start_us(start_datetime, "start_datetime", context.timezone)
    end = end_us(end_datetime, "end_datetime", context.timezone)
    if not query.strip():
        raise ToolError("query is empty: say what to look for.")
    found = await context.search.search_passages(query, tuple(tags), tag_match_mode, count, start, end)
    results = [
        {
            "id": hit.id,
            "timestamp": iso(hit.created_us, context.timezone),
            "content": hit.text,
            "tags": list(hit.tags),
        }
        | ({} if hit.relevance is None else {"relevance": round(hit.relevance, 4)})
        for hit in found
    ]
    return _results(results, "passage")


async def _conversation_search(
    context: ToolContext,
    query: str | None = None,
    roles: Sequence[str] = (),
    limit: int = DEFAULT_RESULTS,
    start_date: str | None = None,
    end_date: str | None = None,
) -> str:
    count = _count("limit", limit)
    start = start_us(start_date, "start_date", context.timezone)
    end = end_us(end_date, "end_date", context.timezone)
    wanted = query if query and query.strip() else None
    found = await context.search.search_messages(wanted, tuple(roles), count, start, end)
    results = [
        {
            "id": hit.id,
            "timestamp": iso(hit.created_us, context.timezone),
            "role": hit.role,
            "content": truncated(hit.text, SHOWN_MESSAGE_CHARS),
        }
        for hit in found
        if hit.role != "tool"
    ]
    return _results(results, "message")


_OTHERS: Mapping[str, Callable[..., Awaitable[str]]] = {
    "memory_finish_edits": _finish_edits,
    "send_message": _send_message,
    "archival_memory_insert": _archival_insert,
    "archival_memory_search": _archival_search,
    "conversation_search": _conversation_search,
    **multi_agent.TOOLS,
}


def _results(results: list[dict[str, Any]], what: str) -> str:
    plural = "" if len(results) == 1 else "s"
    message = f"{len(results)} {what}{plural} found." if results else f"No {what}s found."
    return json.dumps({"message": message, "results": results}, ensure_ascii=False)


def _count(argument: str, value: int) -> int:
    if not 1 <= value <= MOST_RESULTS:
        raise ToolError(f"{argument} is {value}; it must be between 1 and {MOST_RESULTS}.")
    return value


def _checked(definition: Definition, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, those of value null left out. ToolError for a missing, unknown or ill-typed one."""
    given = {name: value for name, value in args.items() if value is not None}
    missing = [name for name in definition.required if name not in given]
    if missing:
        raise ToolError(f"{definition.name} needs {', '.join(missing)}.")
    for name, value in given.items():
        schema = definition.properties.get(name)
        if schema is None:
            known = ", ".join(definition.properties) or "none"
            raise ToolError(f"{definition.name} has no argument {name!r}. Its arguments: {known}.")
        _check_type(name, value, schema)
    return given


def _check_type(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    match schema["type"]:
        case "string":
            right = isinstance(value, str)
        case "integer":
            right = isinstance(value, int) and not isinstance(value, bool)
        case _:
            right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if not right:
        wanted = "a list of strings" if schema["type"] == "array" else f"a {schema['type']}".replace("a i", "an i")
        raise ToolError(f"{name} must be {wanted}, not {json.dumps(value, ensure_ascii=False)[:200]}.")
    allowed = schema.get("enum") or schema.get("items", {}).get("enum")
    stray = [item for item in (value if isinstance(value, list) else [value]) if allowed and item not in allowed]
    if stray:
        raise ToolError(f"{name} must be one of {', '.join(allowed)}, not {stray[0]!r}.")


def _answer(call: ToolCall, status: Literal["success", "error"], text: str) -> ToolReturn:
    return ToolReturn(tool_call_id=call.id, name=call.name, status=status, content=text)
