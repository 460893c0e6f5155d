"""A double of an OpenAI chat-completions endpoint: plays back scripted turns and remembers what it was asked.

It runs in a thread of the test process; the server under test is a process of its own. The official `openai` SDK accepts its
answers (tests/contract/test_doubles.py).
"""

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.doubles.openai_batches import OpenAIBatchRoutes
from tests.doubles.serving import Turn, TurnsDouble


def text(content: str, **more: Any) -> Turn:
    return {"content": content, **more}


def call(name: str, arguments: dict[str, Any] | str, *, id: str = "call_1", content: str = "") -> Turn:
    return calls([(id, name, arguments)], content=content)


def calls(items: list[tuple[str, str, dict[str, Any] | str]], *, content: str = "") -> Turn:
    return {
        "content": content,
        "tool_calls": [
            {"id": id, "name": name, "arguments": args if isinstance(args, str) else json.dumps(args)}
            for id, name, args in items
        ],
    }


def failure(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Turn:
    return {"status": status, "body": body, "headers": headers or {}}


class OpenAIDouble(TurnsDouble):
    """A turn may carry: reasoning, details (`reasoning_details`), pieces (how text is cut), delay_s, pause_s (between frames,
    from the `pause_after`th), die_after (frames before the connection drops), error_after and error (frames before an error, and
    what it says), garbage, finish, status/body (an error answer). `most_at_once`: of calls whose clients were still there."""

    def __init__(self, models: tuple[str, ...] = ("gpt-test",)) -> None:
        self.batches = OpenAIBatchRoutes(self._batched)
        self.most_at_once = 0
        self._answering: list[web.Request] = []
        super().__init__(models, text("ok"))

    def reset(self) -> None:
        super().reset()
        self.batches.clear()
        self.most_at_once = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self.batches.add(app)

    async def _batched(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """A call of a batch: (status, body)."""
        turn = await self._next(body)
        if "status" in turn:
            return turn["status"], turn["body"]
        return 200, self._batched_answer(path, turn, body)

    def _batched_answer(self, path: str, turn: Turn, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/chat/completions"
        return self._whole(turn, body)

    async def _models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "created": 1, "owned_by": "test"} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self._answering.append(request)
        there = [each for each in self._answering if each.transport is not None and not each.transport.is_closing()]
        self.most_at_once = max(self.most_at_once, len(there))
        try:
            return await self._answer(request)
        finally:
            self._answering.remove(request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        turn = await self._next(body)
        if (odd := scripted_failure(turn)) is not None:
            return odd
        if not body.get("stream"):
            return web.json_response(self._whole(turn, body))
        return await self._stream(request, turn, body)

    async def _next(self, body: dict[str, Any]) -> Turn:
        self.requests.append(body)
        return await super()._next(body)

    def _usage(self, turn: Turn) -> dict[str, Any]:
        return turn.get("usage") or {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}

    def _finish(self, turn: Turn) -> str:
        return turn.get("finish") or ("tool_calls" if turn.get("tool_calls") else "stop")

    def _whole(self, turn: Turn, body: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": turn.get("content") or None}
        if turn.get("reasoning"):
            message["reasoning_content"] = turn["reasoning"]
        if turn.get("details"):
            message["reasoning_details"] = turn["details"]
        if turn.get("tool_calls"):
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in turn["tool_calls"]
            ]
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": self._finish(turn), "logprobs": None}],
            "usage": self._usage(turn),
        }

    async def _stream(self, request: web.Request, turn: Turn, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for sent, (delta, finish) in enumerate(self._deltas(turn)):
            if turn.get("die_after") is not None and sent >= turn["die_after"]:
                assert request.transport is not None
                request.transport.close()
                return response
            if turn.get("error_after") is not None and sent >= turn["error_after"]:
                await response.write(b"data: " + json.dumps({"error": turn["error"]}).encode() + b"\n\n")
                return response
            frame = {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": body.get("model"),
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }
            await response.write(b"data: " + json.dumps(frame).encode() + b"\n\n")
            if turn.get("pause_s") and sent >= turn.get("pause_after", 0):
                await asyncio.sleep(turn["pause_s"])
        if (body.get("stream_options") or {}).get("include_usage"):
            frame = {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": body.get("model"),
                "choices": [],
                "usage": self._usage(turn),
            }
            await response.write(b"data: " + json.dumps(frame).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _deltas(self, turn: Turn) -> list[tuple[dict[str, Any], str | None]]:
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
        for piece in cut(turn.get("reasoning") or "", turn.get("pieces", 3)):
            deltas.append(({"reasoning_content": piece}, None))
        if turn.get("details"):
            deltas.append(({"reasoning_details": turn["details"]}, None))
        for piece in cut(turn.get("content") or "", turn.get("pieces", 3)):
            deltas.append(({"content": piece}, None))
        for index, item in enumerate(turn.get("tool_calls") or []):
            function = {"name": item["name"], "arguments": ""}
            head = {"index": index, "id": item["id"], "type": "function", "function": function}
            deltas.append(({"tool_calls": [head]}, None))
            for piece in cut(item["arguments"], turn.get("pieces", 3)):
                deltas.append(({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None))
        deltas.append(({}, self._finish(turn)))
        return deltas


def scripted_failure(turn: Turn) -> web.Response | None:
    if "status" in turn:
        payload = turn["body"] if turn["body"] is not None else {"error": {"message": "scripted", "type": "x"}}
        raw = payload if isinstance(payload, str) else json.dumps(payload)
        return web.Response(status=turn["status"], text=raw, headers=turn["headers"])
    if turn.get("garbage"):
        return web.Response(text=turn["garbage"], content_type="text/html")
    return None


def cut(value: str, pieces: int) -> list[str]:
    if not value:
        return []
    size = max(1, -(-len(value) // pieces))
    return [value[at : at + size] for at in range(0, len(value), size)]
