"""What reading a streamed token costs in each provider's wire format: CPU from bytes to chunks, nothing else.

A stream is replayed twice: each event in a read of its own, as when tokens come slowly, and many in one, as when the model is
ahead.
"""

import json
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from perdure.core.model import ModelDone
from perdure.parsing.event_stream import encode_message
from perdure.parsing.sse import SseParser
from perdure.providers.anthropic_frames import MessagesAnswer
from perdure.providers.bedrock import InvokeFrames
from perdure.providers.gemini_frames import GeminiAnswer
from perdure.providers.openai_frames import ChatAnswer
from perdure.providers.responses_frames import ResponsesAnswer

TOKENS = 2_000
A_READ = 64
WORD = " token"
INVOKED = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}


class WireFormat(Struct, frozen=True):
    """One wire format. `frames` makes what cuts bytes into events, `answer` what reads these; `done` tells the whole answer at
    the end. `events`: a stream of so many tokens of text, an event a piece."""

    frames: Callable[[], Any]
    answer: Callable[[], Any]
    done: Callable[[Any], ModelDone]
    events: Callable[[int], list[bytes]]


class Cost(Struct, frozen=True):
    """CPU microseconds a token: `alone` where each came in a read of its own, `ahead` where many came in one."""

    name: str
    alone_us: float
    ahead_us: float


def measure(name: str, wire: WireFormat, *, tokens: int = TOKENS, rounds: int = 5) -> Cost:
    """The cheapest of some rounds: what the code costs when nothing else disturbs it."""
    alone = wire.events(tokens)
    ahead = [b"".join(alone[at : at + A_READ]) for at in range(0, len(alone), A_READ)]
    return Cost(name, *(min(_once(wire, reads, tokens) for _ in range(rounds)) for reads in (alone, ahead)))


def _once(wire: WireFormat, reads: Sequence[bytes], tokens: int) -> float:
    frames, answer = wire.frames(), wire.answer()
    feed, split = answer.feed, frames.feed
    seen = 0
    started = time.process_time_ns()
    for data in reads:
        seen += len(feed(split(data)))
    done = wire.done(answer)
    spent_us = (time.process_time_ns() - started) / 1_000
    text = "".join(getattr(part, "text", "") for part in done.content)
    if seen != tokens or text != WORD * tokens:
        raise AssertionError(f"{seen} chunks came of {tokens} tokens")
    return spent_us / tokens


def _sse(events: Sequence[Any], *, named: bool = False) -> list[bytes]:
    name = [f"event: {event['type']}\n" if named else "" for event in events]
    return [f"{name}data: {json.dumps(event)}\n\n".encode() for name, event in zip(name, events, strict=True)]


def _chat(tokens: int) -> list[bytes]:
    def frame(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return {**head, "service_tier": "default", "system_fingerprint": "fp", "choices": [choice]}

    deltas = [frame({"role": "assistant", "content": ""}), *[frame({"content": WORD})] * tokens, frame({}, "stop")]
    return [*_sse(deltas), b"data: [DONE]\n\n"]


def _responses(tokens: int) -> list[bytes]:
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    text = [{"type": "output_text", "text": WORD * tokens, "annotations": []}]
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    response = {"id": "resp_1", "model": "m", "status": "completed", "output": [{**item, "content": text}]}
    deltas = [
        {"type": "response.output_text.delta", **place, "delta": WORD, "logprobs": [], "sequence_number": number}
        for number in range(tokens)
    ]
    events = [
        {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {
            "type": "response.content_part.added",
            **place,
            "part": {"type": "output_text", "text": "", "annotations": []},
        },
        *deltas,
        {"type": "response.output_text.done", **place, "text": WORD * tokens},
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "content": text}},
        {"type": "response.completed", "response": response},
    ]
    return _sse(events, named=True)


def _messages(tokens: int) -> list[dict[str, Any]]:
    head = {"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 1}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": WORD}}
    return [
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[delta] * tokens,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens}},
        {"type": "message_stop"},
    ]


def _invoked(tokens: int) -> list[bytes]:
    payloads = [{"bytes": b64encode(json.dumps(event).encode()).decode(), "p": "abc"} for event in _messages(tokens)]
    return [encode_message(INVOKED, json.dumps(payload).encode()) for payload in payloads]


def _gemini(tokens: int) -> list[bytes]:
    def frame(text: str, **more: Any) -> dict[str, Any]:
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "responseId": "r"}

    return _sse([*[frame(WORD)] * (tokens - 1), frame(WORD, finishReason="STOP")])


def _ended(answer: MessagesAnswer) -> ModelDone:
    answer.finish()
    return answer.done()


FORMATS: dict[str, WireFormat] = {
    "openai chat": WireFormat(SseParser, lambda: ChatAnswer("bench"), lambda answer: answer.done(complete=True), _chat),
    "openai responses": WireFormat(
        SseParser, lambda: ResponsesAnswer("bench"), lambda answer: answer.done(), _responses
    ),
    "anthropic messages": WireFormat(
        SseParser, lambda: MessagesAnswer("bench"), _ended, lambda tokens: _sse(_messages(tokens), named=True)
    ),
    "bedrock": WireFormat(InvokeFrames, lambda: MessagesAnswer("bench"), _ended, _invoked),
    "gemini": WireFormat(SseParser, lambda: GeminiAnswer("bench"), lambda answer: answer.done(), _gemini),
}
