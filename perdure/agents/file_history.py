"""The history of an agent out of a file, made fit to go on: every tool call answered once, every answer to a call.

A file may have been cut anywhere. A call without its answer is answered with an error that says so, also one that waited for a
person: nobody who knew of it will answer here. An answer without its call leaves the context.
"""

from collections.abc import Iterable, Sequence

import msgspec

from perdure.agents.file_values import FileAgent
from perdure.core.ids import new_id
from perdure.core.messages import Message, ToolCall, ToolReturn

NOT_IN_FILE = "The answer to this call was not in the agent file."


def context_of(agent: FileAgent) -> tuple[list[Message], list[str]]:
    """(the messages in context, mended; notes on what was done). The compiled system message is not among them."""
    by_id = {message.id: message for message in agent.messages}
    known = [by_id[key] for key in agent.in_context if key in by_id]
    missing = len(agent.in_context) - len(known)
    system = compiled_message(agent)
    said = [message for message in known if message is not system]
    mended = _mended(said)
    notes: list[str] = []
    if missing:
        notes.append(f"{agent.where}.in_context_message_ids: {missing} of the messages in context are not in the file")
    if [message.id for message in mended] != [message.id for message in said]:
        notes.append(f"{agent.where}.messages: tool calls without an answer, or answers without a call, were put right")
    return mended, notes


def compiled_message(agent: FileAgent) -> Message | None:
    """The compiled system prompt of the file: the first message in context, if it is a system message."""
    first = agent.in_context[0] if agent.in_context else None
    return next((item for item in agent.messages if item.id == first and item.role == "system"), None)


def _mended(messages: Sequence[Message]) -> list[Message]:
    found: list[Message] = []
    asked: dict[str, ToolCall] = {}
    for message in messages:
        if message.role == "tool":
            kept = tuple(answer for answer in message.tool_returns if asked.pop(answer.tool_call_id, None) is not None)
            if not kept:
                continue
            message = msgspec.structs.replace(message, tool_returns=kept) if kept != message.tool_returns else message
            if asked:
                message = msgspec.structs.replace(
                    message, tool_returns=(*message.tool_returns, *_errors(asked.values()))
                )
                asked = {}
            found.append(message)
            continue
        joins = message.role == "approval" and found and found[-1].role in ("assistant", "approval")
        if asked and not joins:
            found.append(_closing(found[-1], asked.values()))
            asked = {}
        asked |= {call.id: call for call in message.tool_calls}
        found.append(message)
    if asked:
        found.append(_closing(found[-1], asked.values()))
    return found


def _errors(calls: Iterable[ToolCall]) -> tuple[ToolReturn, ...]:
    return tuple(ToolReturn(call.id, call.name, "error", NOT_IN_FILE) for call in calls)


def _closing(after: Message, calls: Iterable[ToolCall]) -> Message:
    return Message(id=new_id("message"), role="tool", created_us=after.created_us, tool_returns=_errors(calls))
