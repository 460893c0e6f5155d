"""Stored messages as the history a model is given.

A step that waits for approval is stored as two messages, the answer and the approval request; a model wrote it as one, and gets
it back as one. Invariant: in a history every tool call is answered by the message after it, but for the calls of the last
message while they wait for approval.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from perdure.core.messages import Message, Parked, ToolCall, ToolReturn

UNANSWERED = "Error: the call was interrupted and never answered."


class History(Struct, frozen=True):
    """`answer`: what was said to the approval request that `messages` end with, where that has not been carried out yet."""

    messages: list[Message]
    answer: Message | None = None


def history(stored: Iterable[Message]) -> History:
    """Approval requests joined to their step, responses left out, calls that nobody ever answered closed, and returns of calls
    that are not there left out."""
    messages: list[Message] = []
    answer: Message | None = None
    for message in stored:
        if message.role == "tool" and not _answers(messages, message):
            continue
        if message.role == "approval" and not message.tool_calls:
            answer = message
            continue
        last = messages[-1] if messages else None
        if message.role == "approval":
            if (
                last is not None
                and last.role == "assistant"
                and last.parked is None
                and last.step_id == message.step_id
            ):
                messages[-1] = joined(last, message)
                continue
            message = joined(None, message)
        if last is not None and last.tool_calls and last.role == "assistant":
            _close(messages, last, message)
            answer = None
        messages.append(message)
    if messages and messages[-1].parked is None and messages[-1].role == "assistant" and messages[-1].tool_calls:
        messages.append(_closed(messages[-1], messages[-1].tool_calls))
    waits = bool(messages) and messages[-1].parked is not None
    return History(messages, answer if waits else None)


def joined(answer: Message | None, request: Message) -> Message:
    """A parked step as the one message the model wrote. `answer` None: the request holds all of it."""
    parked = request.parked or Parked()
    if answer is None:
        return msgspec.structs.replace(request, role="assistant", parked=parked)
    calls = {call.id: call for call in (*answer.tool_calls, *request.tool_calls)}
    order = [call_id for call_id in parked.order if call_id in calls]
    order += [call_id for call_id in calls if call_id not in order]
    return msgspec.structs.replace(
        answer,
        tool_calls=tuple(calls[call_id] for call_id in order),
        content=(*answer.content, *request.content),
        calls_at=parked.calls_at if request.parked is not None else answer.calls_at,
        parked=parked,
        hidden=False,
    )


def open_calls(messages: list[Message]) -> tuple[ToolCall, ...]:
    """The calls that wait for approval at the end of a history."""
    return messages[-1].tool_calls if messages and messages[-1].parked is not None else ()


def _answers(messages: list[Message], tool: Message) -> bool:
    """Whether any of the returns is for a call of the step before it."""
    asked = next((message for message in reversed(messages) if message.role != "tool"), None)
    called = {call.id for call in asked.tool_calls} if asked is not None else set[str]()
    return any(each.tool_call_id in called for each in tool.tool_returns)


def _close(messages: list[Message], asked: Message, after: Message) -> None:
    """Answer the calls of `asked` that `after` leaves open."""
    answered = {each.tool_call_id for each in after.tool_returns} if after.role == "tool" else set[str]()
    left = tuple(call for call in asked.tool_calls if call.id not in answered)
    if left:
        messages.append(_closed(asked, left))


def _closed(asked: Message, calls: tuple[ToolCall, ...]) -> Message:
    """A return for each of the calls; its id is a function of what it closes, so that every reading gives the same."""
    returns = tuple(ToolReturn(call.id, call.name, "error", UNANSWERED, ran=False) for call in calls)
    return msgspec.structs.replace(
        asked,
        id=f"{asked.id}-closed",
        role="tool",
        content=(),
        tool_calls=(),
        tool_returns=returns,
        parked=None,
        calls_at=None,
        hidden=True,
    )
