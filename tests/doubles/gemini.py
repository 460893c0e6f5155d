"""A double of Gemini's generateContent: plays back scripted turns, remembers what it was asked, and refuses what the API
refuses.

What it holds a request to: calls stand behind what the user or a function said, are answered in the content that follows, and
in the turn under way the first call of every answer carries the signature it was given. The official `google-genai` SDK
accepts its answers (tests/contract/test_gemini_double.py).
"""

import base64
import itertools
import json
from typing import Any

from aiohttp import web

from tests.doubles.gemini_batches import GeminiBatchRoutes
from tests.doubles.openai_chat import OpenAIDouble, Turn, cut, scripted_failure

Body = dict[str, Any]
MODELS = {
    "gemini-test": {"inputTokenLimit": 1_048_576, "supportedGenerationMethods": ["generateContent", "countTokens"]},
    "embedding-test": {"inputTokenLimit": 2_048, "supportedGenerationMethods": ["embedContent"]},
    "images-test": {"inputTokenLimit": 480, "supportedGenerationMethods": ["predict"]},
}


class GeminiDouble(OpenAIDouble):
    """A turn may also carry: `blocked` (a reason why the prompt is refused), `finish` (a finish reason as the API has it),
    `finish_message`. `strict`: calls need their signatures, as with Gemini 3."""

    def __init__(self, *, strict: bool = True) -> None:
        self._numbers = itertools.count(1)
        self._signed: dict[str, str] = {}
        self.strict = strict
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        super().__init__(tuple(MODELS))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _routes(self, app: web.Application) -> None:
        self.batches = GeminiBatchRoutes(self._batched_one)
        self.batches.add(app)
        app.router.add_get("/{version:v1|v1beta}/models", self._list)
        app.router.add_post("/{version:v1|v1beta}/models/{call}", self._generate)

    async def _list(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("x-goog-api-key"))
        models = [{"name": f"models/{name}", "version": "1", **facts} for name, facts in MODELS.items()]
        return web.json_response({"models": models})

    async def _batched_one(self, body: Body) -> tuple[int, Body]:
        """A call of a batch: (status, body)."""
        if (wrong := self._wrong(body)) is not None:
            return 400, {"error": {"code": 400, "message": wrong}}
        turn = await self._next(body)
        if "status" in turn:
            return turn["status"], turn["body"]
        return 200, _frame(self._parts(turn, 1), turn, last=True)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        model, _, method = request.match_info["call"].partition(":")
        if method == "batchGenerateContent":
            return await self.batches.create(request, model)
        body = await request.json()
        self.paths.append(request.path_qs)
        self.keys.append(request.headers.get("x-goog-api-key"))
        if (wrong := self._wrong(body)) is not None:
            self.requests.append(body)
            return web.json_response(
                {"error": {"code": 400, "message": wrong, "status": "INVALID_ARGUMENT"}}, status=400
            )
        turn = await self._next(body)
        if (odd := scripted_failure(turn)) is not None:
            return odd
        streamed = "stream" in request.match_info["call"]
        parts = self._parts(turn, turn.get("pieces", 3) if streamed else 1)
        if not streamed:
            return web.json_response(_frame(parts, turn, last=True))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, part in enumerate(parts):
            if turn.get("die_after") is not None and number >= turn["die_after"]:
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(_event(_frame([part], turn, last=False)))
        await response.write(_event(_frame([], turn, last=True)))
        await response.write_eof()
        return response

    def _wrong(self, body: Body) -> str | None:
        """What the API would say of this request; None: it would take it."""
        contents: list[Body] = body.get("contents") or []
        if not contents:
            return "GenerateContentRequest.contents: contents is not specified"
        for at, content in enumerate(contents):
            calls = _named(content, "functionCall")
            if calls and (at == 0 or contents[at - 1].get("role") == "model"):
                return (
                    "Please ensure that function call turn comes immediately after a user turn or after a function "
                    "response turn."
                )
            answers = _named(contents[at + 1], "functionResponse") if at + 1 < len(contents) else []
            if calls and [each["name"] for each in calls] != [each["name"] for each in answers]:
                return (
                    "Please ensure that the number of function response parts is equal to the number of function call "
                    "parts of the function call turn."
                )
        return self._unsigned(contents) if self.strict else None

    def _unsigned(self, contents: list[Body]) -> str | None:
        begun = max(
            at
            for at, content in enumerate(contents)
            if content.get("role") != "model" and not _named(content, "functionResponse")
        )
        for at, content in enumerate(contents[begun:], begun):
            if content.get("role") != "model":
                continue
            first = next((part for part in content["parts"] if "functionCall" in part), None)
            if first is None:
                continue
            call, given = first["functionCall"], first.get("thoughtSignature")
            if given is None:
                return (
                    f"Function call `{call['name']}` in the {at}. content block is missing a `thought_signature`. Learn "
                    "more about thought signatures."
                )
            if given not in (self._signed.get(call.get("id", "")), "skip_thought_signature_validator"):
                return "Corrupted thought signature."
        return None

    def _parts(self, turn: Turn, pieces: int) -> list[Body]:
        parts: list[Body] = []
        for piece in cut(turn.get("reasoning") or "", pieces):
            parts.append({"text": piece, "thought": True})
        for piece in cut(turn.get("content") or "", pieces):
            parts.append({"text": piece})
        for number, call in enumerate(turn.get("tool_calls") or ()):
            made: Body = {
                "functionCall": {"name": call["name"], "args": json.loads(call["arguments"]), "id": call["id"]}
            }
            if number == 0:
                made["thoughtSignature"] = self._signed[call["id"]] = self._signature()
            parts.append(made)
        if turn.get("reasoning") and turn.get("content") and not turn.get("tool_calls"):
            parts.append({"text": "", "thoughtSignature": self._signature()})
        return parts

    def _signature(self) -> str:
        return base64.b64encode(f"sealed {next(self._numbers)}".encode()).decode()


def _named(content: Body, kind: str) -> list[Body]:
    return [part[kind] for part in content.get("parts") or () if kind in part]


def _event(frame: Body) -> bytes:
    return b"data: " + json.dumps(frame).encode() + b"\r\n\r\n"


def _frame(parts: list[Body], turn: Turn, *, last: bool) -> Body:
    usage = turn.get("usage") or {
        "promptTokenCount": 10,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 2,
        "totalTokenCount": 15,
    }
    frame: Body = {"modelVersion": "gemini-test-001", "responseId": "response-1", "usageMetadata": usage}
    if turn.get("blocked"):
        return {**frame, "promptFeedback": {"blockReason": turn["blocked"]}}
    candidate: Body = {"content": {"role": "model", "parts": parts}, "index": 0}
    if last:
        candidate["finishReason"] = turn.get("finish") or "STOP"
        if turn.get("finish_message"):
            candidate["finishMessage"] = turn["finish_message"]
    return {**frame, "candidates": [candidate]}
