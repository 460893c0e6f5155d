"""Gemini's generateContent, as Google writes it: calls come whole, and a signature closes its part."""

from collections.abc import Iterator
from typing import Any

import msgspec

from perdure.core.model import Chunk, ModelDone
from perdure.parsing.sse import SseParser
from perdure.providers.base import Model
from perdure.providers.gemini import Gemini
from perdure.providers.gemini_frames import GeminiAnswer
from perdure.providers.http import Endpoint, Http
from tests.contract.conversations import Call, Need, Said, Text, Thinking

_FINISH = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}


class _Translator:
    def __init__(self) -> None:
        self._parser = SseParser()
        self._answer = GeminiAnswer("google_ai")

    def feed(self, data: bytes) -> list[Chunk]:
        return self._answer.feed(self._parser.feed(data))

    def finish(self) -> tuple[list[Chunk], ModelDone]:
        last = self._answer.feed(self._parser.finish())
        return last, self._answer.done()


class GeminiSpeaker:
    name = "gemini"
    handle = "google_ai/gemini-3-test"
    can: frozenset[Need] = frozenset({"reasoning", "signatures", "mixed_order", "content_filter", "errors_in_stream"})
    keeps_call_ids = True
    usage_fields = frozenset({"cached_input_tokens", "reasoning_tokens"})
    stream_type = "text/event-stream"

    def model(self, http: Http, url: str, *, stream: bool) -> Model:
        return Gemini(http, Endpoint("google_ai", f"{url}/v1beta"), "gemini-3-test", stream=stream)

    def translator(self) -> _Translator:
        return _Translator()

    def streamed(self, said: Said) -> bytes:
        frames = [_frame(said, [part]) for part in _parts(said, whole=False)]
        if said.failure is not None:
            frames.append(_error(said))
        elif not said.cut:
            frames.append(_frame(said, [], last=True))
        return b"".join(b"data: " + msgspec.json.encode(frame) + b"\r\n\r\n" for frame in frames)

    def whole(self, said: Said) -> tuple[int, bytes]:
        if said.failure is not None:
            return said.failure.status, msgspec.json.encode(_error(said))
        return 200, msgspec.json.encode(_frame(said, list(_parts(said, whole=True)), last=True))

    def shown(self, body: Any) -> Any:
        return body


def _parts(said: Said, *, whole: bool) -> Iterator[dict[str, Any]]:
    for item in said.items:
        if isinstance(item, Call):
            arguments = msgspec.Raw("".join(item.pieces).encode())
            yield {"functionCall": {"name": item.name, "args": arguments, "id": item.id}}
            continue
        assert isinstance(item, Text | Thinking)
        thought = {"thought": True} if isinstance(item, Thinking) else {}
        pieces = ("".join(item.pieces),) if whole else item.pieces
        for number, piece in enumerate(pieces, 1):
            signature = item.signature if isinstance(item, Thinking) and number == len(pieces) else None
            yield {"text": piece, **thought, **({"thoughtSignature": signature} if signature else {})}


def _frame(said: Said, parts: list[dict[str, Any]], *, last: bool = False) -> dict[str, Any]:
    given = said.usage
    thought = given.reasoning_tokens or 0
    usage = {
        "promptTokenCount": given.prompt_tokens,
        "candidatesTokenCount": given.completion_tokens - thought,
        "totalTokenCount": given.total_tokens,
    }
    if given.cached_input_tokens is not None:
        usage["cachedContentTokenCount"] = given.cached_input_tokens
    if given.reasoning_tokens is not None:
        usage["thoughtsTokenCount"] = thought
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = _FINISH.get(said.finish, "STOP")
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-3-test", "responseId": "r1"}


def _error(said: Said) -> dict[str, Any]:
    assert said.failure is not None
    return {"error": {"code": said.failure.status, "message": said.failure.message, "status": "UNAVAILABLE"}}
