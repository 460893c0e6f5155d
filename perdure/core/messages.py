"""What was said: messages and their parts, as stored, with nothing of any wire format in them.

A message is immutable once stored. Its parts keep the model's own text, byte for byte; tool-call arguments stay the
JSON text the model wrote.
"""

from typing import Literal

import msgspec
from msgspec import Struct

Interruption = Literal["cancelled", "retried"]
Role = Literal["system", "user", "assistant", "tool", "approval", "summary"]


class TextPart(Struct, frozen=True, tag="text", omit_defaults=True):
    """`signature`: what the provider wants back with the text, opaque to everyone else."""

    text: str
    signature: str | None = None


class ImagePart(Struct, frozen=True, tag="image", omit_defaults=True):
    """An image by value (`data`, base64) or by address (`url`); one of the two is set."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    detail: str | None = None


class ReasoningPart(Struct, frozen=True, tag="reasoning", omit_defaults=True):
    """Thinking the model showed. `native`: it came on the provider's reasoning channel, not as ordinary text."""

    text: str
    native: bool = True
    signature: str | None = None


class HiddenReasoningPart(Struct, frozen=True, tag="hidden_reasoning", omit_defaults=True):
    """Thinking the provider withheld; `data` is the opaque text it wants back, if it gave one."""

    data: str | None = None


Part = TextPart | ImagePart | ReasoningPart | HiddenReasoningPart


class ToolCall(Struct, frozen=True, omit_defaults=True):
    """`arguments` is the JSON text exactly as the model wrote it; it may fail to parse.

    `signature`: what the provider wants back with the call, opaque to everyone else. `at`: before which of its answer's
    content parts the call came; None: after all of them, or unknown.
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None
    at: int | None = None


class ToolReturn(Struct, frozen=True, omit_defaults=True):
    """The answer to one tool call: `content` is text, or text and image parts.

    `ran` False: the call was answered without being run (a rule refused it, a person denied it, it was interrupted).
    """

    tool_call_id: str
    name: str
    status: Literal["success", "error"]
    content: str | tuple[TextPart | ImagePart, ...]
    stdout: tuple[str, ...] | None = None
    stderr: tuple[str, ...] | None = None
    ran: bool = True


class Approval(Struct, frozen=True, omit_defaults=True):
    """A person's decision about one call. `arguments`: JSON text of an object, run in place of the model's; `automatic`: nobody
    decided, the request was cancelled or expired."""

    tool_call_id: str
    approve: bool
    reason: str | None = None
    arguments: str | None = None
    automatic: bool = False


class Parked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an approval request knows of its step beside its own calls. `order`: the ids of all calls of the step, as the model
    wrote them; `called`: the tools called before in the request, with what they returned (for the tool rules); `note`: what the
    model must be told once the calls are answered; `calls_at`: as on a message, of the step's calls together."""

    order: tuple[str, ...] = ()
    called: tuple[tuple[str, str], ...] = ()
    note: str | None = None
    calls_at: int | None = None


class LegacyForm(Struct, frozen=True, omit_defaults=True):
    """On what agents of the older types say and do: they speak by calling a tool. `thoughts`: the argument of the message's
    call that holds the model's thinking and is none of the tool's own, where there is one."""

    thoughts: str | None = None


class CompactionStats(Struct, frozen=True, omit_defaults=True):
    trigger: str
    context_window: int
    messages_before: int
    messages_after: int
    tokens_before: int | None = None
    tokens_after: int | None = None


class Evicted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a summary knows, beside its text, of the part of a context it stands for. `called`: the tools its run had called in
    it, with what they returned (for the tool rules); `pinned`: the ids of what stays of it, right behind the summary."""

    called: tuple[tuple[str, str], ...] = ()
    pinned: tuple[str, ...] = ()


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stored message.

    `tool_calls`: calls of an assistant message, or the calls an approval message asks about.
    `tool_returns`: returns of a tool message, or a client's own returns in an approval response.
    `calls_at`: before which of the content parts the tool calls came; None: after all of them.
    `hidden`: kept for the model and the record, not shown in listings.
    `interrupted`: on an answer that broke off: "cancelled" with its run, which the model is shown as far as it came, or
    "retried": a worker was lost, so the model was asked again, and never sees what it had said.
    `parked`: on approval requests only; `evicted`: on summaries. `legacy`: on messages of the older agent types only.
    `created_us`: microseconds since the epoch.
    """

    id: str
    role: Role
    created_us: int
    content: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_returns: tuple[ToolReturn, ...] = ()
    approvals: tuple[Approval, ...] = ()
    otid: str | None = None
    name: str | None = None
    sender_id: str | None = None
    group_id: str | None = None
    batch_item_id: str | None = None
    agent_id: str | None = None
    conversation_id: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    model: str | None = None
    is_err: bool | None = None
    hidden: bool = False
    calls_at: int | None = None
    interrupted: Interruption | None = None
    compaction: CompactionStats | None = None
    parked: Parked | None = None
    evicted: Evicted | None = None
    legacy: LegacyForm | None = None

    @property
    def text(self) -> str:
        """The text parts, joined as they stand."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def said(self) -> str:
        """What others heard: the text, or of an older agent what it said by calling `send_message`."""
        if self.legacy is None:
            return self.text
        return "".join(_said(call) for call in self.tool_calls if call.name == "send_message")


def _said(call: ToolCall) -> str:
    try:
        message = msgspec.json.decode(call.arguments)["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""  # the tool refused the call
    return message if isinstance(message, str) else msgspec.json.encode(message).decode()
