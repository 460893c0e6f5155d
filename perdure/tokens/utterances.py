"""Stored messages as the turns a chat template knows: who speaks, what is said, which tools are called and what they answer.

Invariant: the text is a function of the messages alone (no clock, no order of dict keys), so that rendering twice gives
the same ids.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from perdure.core.messages import ImagePart, Message, Part, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.tokens import ROLES

SCAFFOLD, SYSTEM, USER, ASSISTANT, TOOL, SUMMARY = range(len(ROLES))

IMAGE_LEFT_OUT = "[An image was here; this model reads text only.]"


class Utterance(Struct, frozen=True, kw_only=True):
    """One turn. `owner`: an index into ROLES (a summary is said by the user, and still owned as a summary).

    `reasoning` and `calls` are the assistant's; `call_id` and `tool_name` are set on a tool's answer.
    """

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    owner: int
    message_id: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    tool_name: str = ""


def utterances(messages: Sequence[Message]) -> list[Utterance]:
    """An image of the history leaves a note in its place: these renderers are for text models, to which none can be sent."""
    answered = {
        answer.tool_call_id for message in messages if message.role == "tool" for answer in message.tool_returns
    }
    return [turn for message in messages for turn in _of_message(message, answered)]


def _of_message(message: Message, answered: set[str]) -> Iterator[Utterance]:
    match message.role:
        case "system":
            yield Utterance(role="system", text=_text(message.content), owner=SYSTEM, message_id=message.id)
        case "user":
            yield Utterance(role="user", text=_text(message.content), owner=USER, message_id=message.id)
        case "summary":
            yield Utterance(role="user", text=_text(message.content), owner=SUMMARY, message_id=message.id)
        case "assistant":
            yield _assistant(message)
        case "tool":
            for answer in message.tool_returns:
                yield _tool(message, answer)
        case "approval":
            yield from _approval(message, answered)


def _assistant(message: Message) -> Utterance:
    reasoning = "".join(part.text for part in message.content if isinstance(part, ReasoningPart))
    return Utterance(
        role="assistant",
        text=_text(message.content),
        owner=ASSISTANT,
        message_id=message.id,
        reasoning=reasoning,
        calls=message.tool_calls,
    )


def _tool(message: Message, answer: ToolReturn) -> Utterance:
    text = answer.content if isinstance(answer.content, str) else _text(answer.content)
    return Utterance(
        role="tool", text=text, owner=TOOL, message_id=message.id, call_id=answer.tool_call_id, tool_name=answer.name
    )


def _approval(message: Message, answered: set[str]) -> Iterator[Utterance]:
    """A request is the assistant's call; a response only shows where no tool message answers the call for it."""
    if message.tool_calls:
        yield _assistant(message)
    returned = {answer.tool_call_id for answer in message.tool_returns}
    for answer in message.tool_returns:
        if answer.tool_call_id not in answered:
            yield _tool(message, answer)
    for approval in message.approvals:
        if not approval.approve and approval.tool_call_id not in answered | returned:
            reason = f" Reason: {approval.reason}" if approval.reason else ""
            yield Utterance(
                role="tool",
                text=f"Error: the request to call the tool was denied.{reason}",
                owner=TOOL,
                message_id=message.id,
                call_id=approval.tool_call_id,
            )


def _text(content: Sequence[Part]) -> str:
    return "".join(
        part.text if isinstance(part, TextPart) else IMAGE_LEFT_OUT
        for part in content
        if isinstance(part, TextPart | ImagePart)
    )
