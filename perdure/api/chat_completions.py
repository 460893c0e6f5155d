"""A run's events as a chat completion, whole or in chunks: the same translation for both.

Invariant: the deltas of a run, joined, are the message of its whole completion. Only what concerns the caller is told: the
agent's text and thinking, and calls of the caller's own tools; what the agent's own tools do stays inside.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from perdure.api.errors import run_error_response
from perdure.api.frames import DONE_FRAME
from perdure.api.openai_errors import in_openai_shape
from perdure.core.events import (
    Event,
    LogEnded,
    ReasoningDelta,
    RunFailed,
    RunStopped,
    Said,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from perdure.core.messages import ToolCall
from perdure.core.runs import StopReason

_encode = msgspec.json.Encoder().encode

Delta = dict[str, Any]

BETWEEN_MESSAGES = "\n\n"
_CUT_SHORT: frozenset[StopReason] = frozenset({"max_steps", "max_tokens_exceeded", "cancelled"})


class Choice:
    """The one choice of a run: events in, deltas out.

    `client_tools`: the names of the caller's own tools. `whole`: the answer must be read as one (JSON), so only the last
    message's text counts, and it comes in one piece at the end.
    """

    def __init__(self, *, client_tools: frozenset[str], whole: bool) -> None:
        self._client_tools = client_tools
        self._whole = whole
        self._speaking: str | None = None
        self._kept: list[str] = []
        self._calls: dict[str, int | None] = {}
        self.stop: StopReason | None = None
        self.usage: UsageReported | None = None
        self.failed: RunFailed | None = None

    def take(self, event: Event) -> list[Delta]:
        match event:
            case TextDelta():
                return self._said(event.message_id, event.text)
            case ReasoningDelta():
                return [{"reasoning_content": event.text}] if event.text else []
            case ToolCallDelta():
                return self._call(event.tool_call_id, event.name, event.arguments or "")
            case Said():
                return self._part(event)
            case RunStopped():
                self.stop = event.reason
                return [{"content": "".join(self._kept)}] if self._kept else []
            case UsageReported():
                self.usage = event
            case RunFailed():
                self.failed = event
            case _:
                pass  # the agent's own affairs
        return []

    def _part(self, event: Said) -> list[Delta]:
        if event.text is not None:
            return self._said(event.message_id, event.text)
        if event.reasoning is not None:
            return [{"reasoning_content": event.reasoning}]
        calls: Iterable[ToolCall] = event.tool_calls or event.approval_calls
        new = [call for call in calls if call.id not in self._calls]
        return [delta for call in new for delta in self._call(call.id, call.name, call.arguments)]

    def _said(self, message_id: str, text: str) -> list[Delta]:
        if not text:
            return []
        first, begins = self._speaking is None, message_id != self._speaking
        self._speaking = message_id
        if self._whole:
            self._kept = [text] if begins else [*self._kept, text]
            return []
        return [{"content": BETWEEN_MESSAGES + text if begins and not first else text}]

    def _call(self, call_id: str, name: str | None, arguments: str) -> list[Delta]:
        """The first piece of a call brings its name, which says whose tool it is."""
        if call_id not in self._calls:
            mine = name in self._client_tools
            self._calls[call_id] = sum(at is not None for at in self._calls.values()) if mine else None
            if not mine:
                return []
            function = {"name": name, "arguments": arguments}
            piece = {"index": self._calls[call_id], "id": call_id, "type": "function", "function": function}
            return [{"tool_calls": [piece]}]
        at = self._calls[call_id]
        if at is None or not arguments:
            return []
        return [{"tool_calls": [{"index": at, "function": {"arguments": arguments}}]}]

    @property
    def finish_reason(self) -> str:
        if self.stop == "requires_approval" and any(at is not None for at in self._calls.values()):
            return "tool_calls"
        return "length" if self.stop in _CUT_SHORT else "stop"


def completion(head: dict[str, Any], events: Sequence[Event], choice: Choice) -> dict[str, Any]:
    """The whole completion of a finished run. `head`: id, created and model."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls: list[dict[str, Any]] = []
    for event in events:
        for delta in choice.take(event):
            for key in ("content", "reasoning_content"):
                if key in delta:
                    message[key] = (message.get(key) or "") + delta[key]
            for piece in delta.get("tool_calls", ()):
                _add_piece(calls, piece)
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    return {
        **head,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop,
                "logprobs": choice.usage.logprobs if choice.usage is not None else None,
            }
        ],
        "usage": usage(choice.usage),
    }


def _add_piece(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    if piece["index"] == len(calls):
        calls.append({"id": piece["id"], "type": "function", "function": dict(piece["function"])})
    else:
        calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def usage(reported: UsageReported | None) -> dict[str, Any] | None:
    """The run's sums over all its steps. None: the run ended without any (cancelled)."""
    if reported is None:
        return None
    counts = reported.usage
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_input_tokens or 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning_tokens or 0, "audio_tokens": 0},
    }


class ChunkEncoder:
    """The events of one run as the frames of a streamed completion; ends with `[DONE]`, after an error too."""

    def __init__(self, head: dict[str, Any], choice: Choice, *, include_usage: bool) -> None:
        self._head = {**head, "object": "chat.completion.chunk"}
        self._choice = choice
        self._include_usage = include_usage
        self._begun = False

    def frames(self, first_seq: int, events: Sequence[Event]) -> bytes:
        out: list[bytes] = []
        if not self._begun:
            self._begun = True
            out.append(self._chunk({"role": "assistant", "content": ""}))
        for event in events:
            if isinstance(event, LogEnded):
                out += self._end()
            else:
                out += [self._chunk(delta) for delta in self._choice.take(event)]
        return b"".join(out)

    def ping(self, at_us: int, last_seq: int) -> bytes:
        """A comment: keeps proxies from closing the stream, and no client looks at it."""
        return b": ping\n\n"

    def _end(self) -> list[bytes]:
        choice = self._choice
        if choice.failed is not None:
            body = in_openai_shape(run_error_response(choice.failed, {})).body
            return [b"data: " + bytes(body) + b"\n\n", DONE_FRAME]
        found = [self._chunk({}, finish_reason=choice.finish_reason, stop_reason=choice.stop)]
        if self._include_usage:
            found.append(_frame({**self._head, "choices": [], "usage": usage(choice.usage)}))
        return [*found, DONE_FRAME]

    def _chunk(self, delta: Delta, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        chunk = {**self._head, "choices": [choice]}
        return _frame({**chunk, "usage": None} if self._include_usage else chunk)


def _frame(chunk: dict[str, Any]) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"
