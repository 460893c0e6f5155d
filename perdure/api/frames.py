"""A run's events as the answer to the request that asked for it: SSE frames as they come, or one object at its end.

Text deltas, the hot path of a token stream, are spliced into a prepared frame instead of encoded as a whole.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.api.to_wire import asks_for_compaction, ping, to_wire, usage
from perdure.core.events import (
    CompactionStarted,
    Event,
    LogEnded,
    ReasoningDelta,
    RunFailed,
    RunStarted,
    RunStopped,
    TextDelta,
    UsageReported,
)

_encode = msgspec.json.Encoder().encode

DONE_FRAME = b"data: [DONE]\n\n"
NEVER_FILTERED = (RunStarted, RunStopped, UsageReported, RunFailed, LogEnded)


def response(
    events: Sequence[Event], run_id: str, types: Sequence[str] | None, *, compaction: bool = False
) -> dict[str, Any]:
    """A finished run's events as the answer to a request that waited for it. `compaction`: it asked to be told of them."""
    compaction = compaction or asks_for_compaction(types)
    messages: list[dict[str, Any]] = []
    stop: dict[str, Any] = {"message_type": "stop_reason", "stop_reason": "error"}
    counts: dict[str, Any] = {}
    for event in events:
        if isinstance(event, RunStopped):
            stop = to_wire(event, run_id)
        elif isinstance(event, UsageReported):
            counts = usage(event)
        elif not isinstance(event, NEVER_FILTERED) and (compaction or not isinstance(event, CompactionStarted)):
            item = to_wire(event, run_id, compaction=compaction)
            if not types or item["message_type"] in types:
                messages.append(item)
    turns, logprobs = counts.pop("turns", None), counts.pop("logprobs", None)
    return {"messages": messages, "stop_reason": stop, "usage": counts, "logprobs": logprobs, "turns": turns}


class FrameEncoder:
    """Events of one run as SSE frames. `numbered`: frames carry their seq_id (background runs). `compaction`: the request
    asked to be told of compactions."""

    def __init__(self, run_id: str, *, types: Sequence[str] | None, numbered: bool, compaction: bool = False) -> None:
        self._compaction = compaction or asks_for_compaction(types)
        self._run_id = run_id
        self._types = frozenset(types) if types else None
        self._numbered = numbered
        self._key: tuple[type, str, int] | None = None
        self._head = b""
        self._tail = b""

    def frames(self, first_seq: int, events: Sequence[Event]) -> bytes:
        """The frames of consecutive events, joined."""
        out: list[bytes] = []
        for seq, event in enumerate(events, first_seq):
            kind = type(event)
            if kind is TextDelta or kind is ReasoningDelta:
                out.append(self._delta(event, seq))  # type: ignore[arg-type]
            elif kind is LogEnded:
                out.append(DONE_FRAME)
            else:
                out.append(self._whole(event, seq))
        return b"".join(out)

    def _delta(self, event: TextDelta | ReasoningDelta, seq: int) -> bytes:
        if self._types is not None:
            wanted = "assistant_message" if type(event) is TextDelta else "reasoning_message"
            if wanted not in self._types:
                return b""
        if type(event) is ReasoningDelta and event.signature is not None:
            return self._whole(event, seq)
        key = (type(event), event.message_id, event.part)
        if key != self._key:
            self._prepare(key, event)
        number = b"%d" % seq if self._numbered else b"null"
        return b"%b%b%b%b}\n\n" % (self._head, _encode(event.text), self._tail, number)

    def _prepare(self, key: tuple[type, str, int], event: TextDelta | ReasoningDelta) -> None:
        """Split the frame where the text goes; seq_id comes last."""
        item = to_wire(event, self._run_id)
        item.pop("seq_id")
        field = "content" if type(event) is TextDelta else "reasoning"
        item.pop(field)
        body = _encode(item)[:-1]
        self._key = key
        self._head = b'data: %b,"%b":' % (body, field.encode())
        self._tail = b',"seq_id":'

    def _whole(self, event: Event, seq: int) -> bytes:
        if type(event) is CompactionStarted and not self._compaction:
            return b""
        item = to_wire(event, self._run_id, seq if self._numbered else None, compaction=self._compaction)
        if (
            self._types is not None
            and not isinstance(event, NEVER_FILTERED)
            and item["message_type"] not in self._types
        ):
            return b""
        prefix = b"event: error\ndata: " if type(event) is RunFailed else b"data: "
        return b"%b%b\n\n" % (prefix, _encode(item))

    def ping(self, at_us: int, last_seq: int) -> bytes:
        return b"data: %b\n\n" % _encode(ping(self._run_id, at_us, last_seq if self._numbered else None))
