"""Chat completions, as OpenAI and the servers that follow it write them."""

import json
from collections.abc import Iterator
from typing import Any

from perdure.core.model import Chunk, ModelDone
from perdure.parsing.sse import SseParser
from perdure.providers.base import Model
from perdure.providers.dialects import CHAT
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.openai_frames import ChatAnswer
from tests.contract.conversations import Call, Hidden, Need, Refusal, Said, Text, Thinking

HEAD = {"id": "chatcmpl-1", "created": 1, "model": "gpt-test"}


class _Translator:
    def __init__(self, kind: str) -> None:
        self._parser = SseParser()
        self._answer = ChatAnswer(kind, think_tags=CHAT[kind].think_tags is not None)

    def feed(self, data: bytes) -> list[Chunk]:
        return self._answer.feed(self._parser.feed(data))

    def finish(self) -> tuple[list[Chunk], ModelDone]:
        last = self._answer.feed(self._parser.finish()) + self._answer.finish()
        return last, self._answer.done(complete=self._parser.done)


class OpenAIChatSpeaker:
    """`kind`: whose dialect it is; those that differ in how they answer are in dialects.py."""

    name = "openai_chat"
    kind = "openai"
    handle = "openai/gpt-test"
    can: frozenset[Need] = frozenset({"reasoning", "refusals", "content_filter", "errors_in_stream", "cut_calls"})
    keeps_call_ids = True
    usage_fields = frozenset({"cached_input_tokens", "cache_write_tokens", "reasoning_tokens"})
    stream_type = "text/event-stream"
    whole_calls = False

    def model(self, http: Http, url: str, *, stream: bool) -> Model:
        return OpenAIChat(http, Endpoint(self.kind, f"{url}/v1"), "gpt-test", CHAT[self.kind], stream=stream)

    def translator(self) -> _Translator:
        return _Translator(self.kind)

    def streamed(self, said: Said) -> bytes:
        frames = [{**HEAD, "object": "chat.completion.chunk", **frame} for frame in self._frames(said)]
        lines = [f"data: {json.dumps(frame, ensure_ascii=False)}\n\n" for frame in frames]
        if said.failure is not None:
            lines.append(f"data: {json.dumps(_error(said))}\n\n")
        elif not said.cut:
            lines.append("data: [DONE]\n\n")
        return "".join(lines).encode()

    def _frames(self, said: Said) -> Iterator[dict[str, Any]]:
        def frame(finish: str | None = None, **delta: Any) -> dict[str, Any]:
            return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        if said.items or said.failure is None:
            yield frame(role="assistant", content="")
        index = 0
        for item in said.items:
            if isinstance(item, Call):
                function = {"name": item.name, "arguments": ""}
                head = {"index": index, "id": item.id, "type": "function", "function": function}
                if self.whole_calls:
                    function["arguments"] = "".join(item.pieces)
                yield frame(tool_calls=[head])
                for piece in () if self.whole_calls else item.pieces:
                    yield frame(tool_calls=[{"index": index, "function": {"arguments": piece}}])
                index += 1
                continue
            for fields in self.deltas(item):
                yield frame(**fields)
        if said.failure is None and not said.cut:
            yield frame(said.finish)
            yield {"choices": [], "usage": _usage(said)}

    def whole(self, said: Said) -> tuple[int, bytes]:
        if said.failure is not None:
            return said.failure.status, json.dumps(_error(said)).encode()
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        for item in said.items:
            if isinstance(item, Call):
                function = {"name": item.name, "arguments": "".join(item.pieces)}
                message.setdefault("tool_calls", []).append({"id": item.id, "type": "function", "function": function})
            else:
                for fields in self.deltas(item):
                    for field, value in fields.items():
                        message[field] = value if message.get(field) is None else message[field] + value
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        body = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": _usage(said)}
        return 200, json.dumps(body, ensure_ascii=False).encode()

    def deltas(self, item: Text | Thinking | Refusal | Hidden) -> Iterator[dict[str, Any]]:
        """What the frames of one thing said hold; in a whole answer the same, joined."""
        assert not isinstance(item, Hidden)
        field = {Thinking: "reasoning_content", Refusal: "refusal"}.get(type(item), "content")
        for piece in item.pieces:
            yield {field: piece}

    def shown(self, body: Any) -> Any:
        return body


def _usage(said: Said) -> dict[str, Any]:
    given = said.usage
    usage: dict[str, Any] = {
        "prompt_tokens": given.prompt_tokens,
        "completion_tokens": given.completion_tokens,
        "total_tokens": given.total_tokens,
    }
    if given.cached_input_tokens is not None:
        usage["prompt_tokens_details"] = {
            "cached_tokens": given.cached_input_tokens,
            "cache_write_tokens": given.cache_write_tokens,
        }
    if given.reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": given.reasoning_tokens}
    return usage


def _error(said: Said) -> dict[str, Any]:
    assert said.failure is not None
    return {"error": {"message": said.failure.message, "code": said.failure.status, "type": "overloaded_error"}}
