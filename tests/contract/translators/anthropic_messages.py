"""Anthropic's Messages API, as it streams and answers."""

import json
from collections.abc import Iterator
from typing import Any

from perdure.core.model import Chunk, ModelDone
from perdure.parsing.sse import SseParser
from perdure.providers.anthropic import ClaudeModel, Direct
from perdure.providers.anthropic_frames import MessagesAnswer
from perdure.providers.base import Model
from perdure.providers.http import Endpoint, Http
from tests.contract.conversations import Call, Hidden, Item, Need, Refusal, Said, Thinking

MODEL = "claude-sonnet-4-5"
STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class _Translator:
    def __init__(self) -> None:
        self._parser = SseParser()
        self._answer = MessagesAnswer("anthropic")

    def feed(self, data: bytes) -> list[Chunk]:
        return self._answer.feed(self._parser.feed(data))

    def finish(self) -> tuple[list[Chunk], ModelDone]:
        last = self._answer.feed(self._parser.finish())
        return [*last, *self._answer.finish()], self._answer.done()


class AnthropicSpeaker:
    name = "anthropic_messages"
    handle = f"anthropic/{MODEL}"
    can: frozenset[Need] = frozenset(
        {
            "reasoning",
            "signatures",
            "unshown_reasoning",
            "hidden_reasoning",
            "refusals",
            "mixed_order",
            "content_filter",
            "errors_in_stream",
            "cut_calls",
        }
    )
    keeps_call_ids = True
    usage_fields = frozenset({"cached_input_tokens", "cache_write_tokens", "reasoning_tokens"})
    stream_type = "text/event-stream; charset=utf-8"

    def model(self, http: Http, url: str, *, stream: bool) -> Model:
        headers = {"x-api-key": "sk-ant", "anthropic-version": "2023-06-01"}
        return ClaudeModel(http, Direct(Endpoint("anthropic", f"{url}/v1", headers=headers)), MODEL, stream=stream)

    def translator(self) -> _Translator:
        return _Translator()

    def streamed(self, said: Said) -> bytes:
        lines = [
            f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n" for event in self.events(said)
        ]
        return "".join(lines).encode()

    def events(self, said: Said) -> Iterator[dict[str, Any]]:
        if said.items or said.failure is None:
            head = {**_message(said), "content": [], "stop_reason": None, "usage": {**_usage(said), "output_tokens": 1}}
            yield {"type": "message_start", "message": head}
        yield {"type": "ping"}
        for index, item in enumerate(said.items):
            yield {"type": "content_block_start", "index": index, "content_block": _opened(item)}
            for delta in _deltas(item):
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            if said.cut or said.failure is not None:
                break
            yield {"type": "content_block_stop", "index": index}
        if said.failure is not None:
            yield _error(said)
        elif not said.cut:
            usage = {"output_tokens": said.usage.completion_tokens}
            if said.usage.reasoning_tokens is not None:
                usage["output_tokens_details"] = {"thinking_tokens": said.usage.reasoning_tokens}
            yield {
                "type": "message_delta",
                "delta": {"stop_reason": _stop(said), "stop_sequence": None},
                "usage": usage,
            }
            yield {"type": "message_stop"}

    def whole(self, said: Said) -> tuple[int, bytes] | None:
        if said.failure is not None:
            return said.failure.status, json.dumps(_error(said)).encode()
        if said.finish == "length" and any(isinstance(item, Call) for item in said.items):
            return None  # a call that was cut off has no object to stand for its input
        usage = _usage(said)
        if said.usage.reasoning_tokens is not None:
            usage["output_tokens_details"] = {"thinking_tokens": said.usage.reasoning_tokens}
        body = json.dumps({**_message(said), "content": ["BLOCKS"], "usage": usage})
        blocks = ", ".join(_block(item) for item in said.items)
        return 200, body.replace('"BLOCKS"', blocks).encode()

    def shown(self, body: Any) -> Any:
        return body


def _message(said: Said) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "stop_reason": _stop(said),
        "stop_sequence": None,
    }


def _stop(said: Said) -> str:
    return "refusal" if any(isinstance(item, Refusal) for item in said.items) else STOP[said.finish]


def _usage(said: Said) -> dict[str, Any]:
    given = said.usage
    read, written = given.cached_input_tokens, given.cache_write_tokens
    usage: dict[str, Any] = {
        "input_tokens": given.prompt_tokens - (read or 0) - (written or 0),
        "output_tokens": given.completion_tokens,
    }
    if read is not None:
        usage |= {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    return usage


def _error(said: Said) -> dict[str, Any]:
    assert said.failure is not None
    return {"type": "error", "error": {"type": "overloaded_error", "message": said.failure.message}}


def _opened(item: Item) -> dict[str, Any]:
    if isinstance(item, Call):
        return {"type": "tool_use", "id": item.id, "name": item.name, "input": {}}
    if isinstance(item, Hidden):
        return {"type": "redacted_thinking", "data": item.data}
    if isinstance(item, Thinking):
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _deltas(item: Item) -> Iterator[dict[str, Any]]:
    if isinstance(item, Hidden):
        return
    if isinstance(item, Call):
        yield {"type": "input_json_delta", "partial_json": ""}
        for piece in item.pieces:
            yield {"type": "input_json_delta", "partial_json": piece}
    elif isinstance(item, Thinking):
        for piece in item.pieces:
            yield {"type": "thinking_delta", "thinking": piece}
        if item.signature:
            yield {"type": "signature_delta", "signature": item.signature}
    else:
        for piece in item.pieces:
            yield {"type": "text_delta", "text": piece}


def _block(item: Item) -> str:
    """A whole block as text: a call's input stands as the model wrote it."""
    if isinstance(item, Call):
        head = json.dumps({"type": "tool_use", "id": item.id, "name": item.name})
        return f'{head[:-1]}, "input": {"".join(item.pieces)}}}'
    if isinstance(item, Hidden):
        return json.dumps({"type": "redacted_thinking", "data": item.data})
    text = "".join(item.pieces)
    if isinstance(item, Thinking):
        return json.dumps({"type": "thinking", "thinking": text, "signature": item.signature or ""})
    return json.dumps({"type": "text", "text": text})
