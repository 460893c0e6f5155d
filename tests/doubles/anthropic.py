"""A double of Anthropic's Messages API: plays back scripted turns, remembers what it was asked, and refuses what the API refuses.

It runs in a thread of the test process; the server under test is a process of its own. The official `anthropic` SDK accepts its
answers (tests/contract/test_anthropic_double.py). Thinking blocks it gave out must come back whole, signed and in order.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.doubles.anthropic_batches import AnthropicBatchRoutes
from tests.doubles.serving import Turn, TurnsDouble

MODEL = "claude-opus-4-5"


def text(content: str, **more: Any) -> Turn:
    return {"blocks": [{"type": "text", "text": content}], **more}


def thinking(content: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": content}


def redacted(data: str) -> dict[str, Any]:
    return {"type": "redacted_thinking", "data": data}


def call(name: str, arguments: dict[str, Any] | str, *, id: str = "toolu_1") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def blocks(*items: dict[str, Any] | str, **more: Any) -> Turn:
    """An answer of several blocks; a text stands for a text block."""
    made = [{"type": "text", "text": item} if isinstance(item, str) else item for item in items]
    return {"blocks": made, **more}


def failure(status: int, kind: str, message: str = "scripted", headers: dict[str, str] | None = None) -> Turn:
    return {"status": status, "error": {"type": kind, "message": message}, "headers": headers or {}}


def signature_of(content: str) -> str:
    """What this double signs a thinking text with; it recognises no other."""
    return hashlib.sha256(b"double:" + content.encode()).hexdigest()


class Refused(Exception):
    """The request is one the API refuses."""


class AnthropicDouble(TurnsDouble):
    """A turn may carry: pieces (how texts are cut), stop_reason, usage, delay_s,
    die_after (events before the connection drops), error_after (events before an error), status/error (an error answer).

    `requests` holds the bodies, `headers` their headers. Caching is played with whole prefixes: a request's usage tells how
    many blocks of it were marked by an earlier one.
    """

    def __init__(self, models: tuple[str, ...] = (MODEL,)) -> None:
        self.headers: list[dict[str, str]] = []
        self.refused: list[str] = []
        self._cached: set[str] = set()
        self._given: list[dict[str, Any]] = []
        self.batches = AnthropicBatchRoutes(self._batched)
        super().__init__(models, text("ok"))

    def reset(self) -> None:
        super().reset()
        self.batches.clear()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_get("/v1/models", self._list)
        self.batches.add(app)

    async def _list(self, request: web.Request) -> web.Response:
        data = [
            {
                "type": "model",
                "id": name,
                "display_name": name.title(),
                "created_at": "2026-01-01T00:00:00Z",
                "max_input_tokens": 200_000,
                "max_tokens": 64_000,
            }
            for name in self.models
        ]
        return web.json_response({"data": data, "has_more": False, "first_id": None, "last_id": None})

    async def _batched(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A call of a batch."""
        self.requests.append(body)
        try:
            self._check(body, {"anthropic-version": "of the batch"})
        except Refused as refused:
            self.refused.append(str(refused))
            return "errored", _error_body("invalid_request_error", str(refused))
        turn = await self._next(body)
        if "status" in turn:
            return "errored", _error_body(turn["error"]["type"], turn["error"]["message"])
        message = self._message(turn, body)
        self._given += [block for block in message["content"] if "thinking" in block["type"]]
        return "succeeded", message

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            self._check(body, request.headers)
        except Refused as refused:
            self.refused.append(str(refused))
            return _error(400, "invalid_request_error", str(refused))
        turn = await self._next(body)
        if "status" in turn:
            return _error(turn["status"], turn["error"]["type"], turn["error"]["message"], turn["headers"])
        message = self._message(turn, body)
        self._given += [block for block in message["content"] if "thinking" in block["type"]]
        if not body.get("stream"):
            return web.json_response(message)
        return await self._stream(request, turn, message)

    def _message(self, turn: Turn, body: dict[str, Any]) -> dict[str, Any]:
        content = [
            {**block, "signature": signature_of(block["thinking"])} if block["type"] == "thinking" else block
            for block in turn["blocks"]
        ]
        calls = any(block["type"] == "tool_use" for block in content)
        return {
            "id": f"msg_{len(self.requests)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": turn.get("stop_reason") or ("tool_use" if calls else "end_turn"),
            "stop_sequence": None,
            "usage": turn.get("usage") or self._usage(body),
        }

    def _usage(self, body: dict[str, Any]) -> dict[str, Any]:
        """Counts blocks as tokens: those before a mark seen earlier were read, those before a new mark written."""
        prefix, read, written, total, seen = hashlib.sha256(), 0, 0, 0, set[str]()
        for block in _blocks(body):
            total += 1
            marked = "cache_control" in block
            plain = {key: value for key, value in block.items() if key != "cache_control"}
            prefix.update(json.dumps(plain, sort_keys=True).encode())
            if marked:
                key = prefix.hexdigest()
                seen.add(key)
                if key in self._cached:
                    read = total
                else:
                    written = total - read
        self._cached |= seen
        return {
            "input_tokens": total - read - written,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "output_tokens": 5,
        }

    async def _stream(self, request: web.Request, turn: Turn, message: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for sent, event in enumerate(_events(message, turn.get("pieces", 3))):
            if turn.get("die_after") is not None and sent >= turn["die_after"]:
                assert request.transport is not None
                request.transport.close()
                return response
            if turn.get("error_after") is not None and sent >= turn["error_after"]:
                event = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            if event["type"] == "error":
                break
            if turn.get("pause_s"):
                await asyncio.sleep(turn["pause_s"])
        await response.write_eof()
        return response

    def _check(self, body: dict[str, Any], headers: Any) -> None:
        """What the API refuses, as far as a client can get it wrong."""
        if not headers.get("anthropic-version"):
            raise Refused("anthropic-version: header is required")
        if not isinstance(body.get("max_tokens"), int):
            raise Refused("max_tokens: Field required")
        marks = sum("cache_control" in block for block in _blocks(body))
        if marks > 4:
            raise Refused(f"A maximum of 4 blocks with cache_control may be provided. Found {marks}.")
        messages = body.get("messages") or []
        if not messages or messages[0]["role"] != "user":
            raise Refused("messages: first message must use the user role")
        for at, message in enumerate(messages):
            if at and message["role"] == messages[at - 1]["role"]:
                raise Refused(f"messages.{at}: roles must alternate")
            self._check_blocks(at, message)
            self._check_results(at, messages)
        self._check_thinking(body, messages)

    def _check_blocks(self, at: int, message: dict[str, Any]) -> None:
        content = message["content"]
        for index, block in enumerate([] if isinstance(content, str) else content):
            where = f"messages.{at}.content.{index}"
            if block["type"] == "text" and not block["text"].strip():
                raise Refused(f"{where}: text content blocks must contain non-whitespace text")
            if block["type"] == "thinking" and "signature" not in block:
                raise Refused(f"{where}.thinking.signature: Field required")
            if block["type"] == "thinking" and block["signature"] != signature_of(block["thinking"]):
                raise Refused(f"{where}: Invalid `signature` in `thinking` block")
            if block["type"] == "tool_use" and not isinstance(block["input"], dict):
                raise Refused(f"{where}.tool_use.input: Input should be an object")
        if not content:
            raise Refused(f"messages.{at}: all messages must have non-empty content")

    def _check_results(self, at: int, messages: list[dict[str, Any]]) -> None:
        def of(index: int, kind: str) -> list[dict[str, Any]]:
            content = messages[index]["content"] if 0 <= index < len(messages) else []
            return [] if isinstance(content, str) else [block for block in content if block["type"] == kind]

        calls = [block["id"] for block in of(at, "tool_use")]
        answered = [block["tool_use_id"] for block in of(at + 1, "tool_result")]
        if missing := [each for each in calls if each not in answered]:
            raise Refused(f"messages.{at}: `tool_use` ids were found without `tool_result` blocks: {missing}")
        before = [block["id"] for block in of(at - 1, "tool_use")]
        results = [block["tool_use_id"] for block in of(at, "tool_result")]
        if any(each not in before for each in results) or len(set(results)) != len(results):
            raise Refused(f"messages.{at}: unexpected `tool_use_id` found in `tool_result` blocks")
        content = messages[at]["content"]
        kinds = [] if isinstance(content, str) else [block["type"] for block in content]
        if "tool_result" in kinds and kinds != sorted(kinds, key=lambda kind: kind != "tool_result"):
            raise Refused(f"messages.{at}: `tool_result` blocks must come first")

    def _check_thinking(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        setting = body.get("thinking") or {}
        manual = setting.get("type") == "enabled"
        choice = (body.get("tool_choice") or {}).get("type", "auto")
        if manual and not 1024 <= setting.get("budget_tokens", 0) < body["max_tokens"]:
            raise Refused("`max_tokens` must be greater than `thinking.budget_tokens`, which must be at least 1024")
        if manual and choice in ("any", "tool"):
            raise Refused("Thinking may not be enabled when tool_choice forces tool use.")
        if setting.get("type") in ("enabled", "adaptive") and body.get("temperature", 1) != 1:
            raise Refused("`temperature` may only be set to 1 when thinking is enabled.")
        spoken = [message for message in messages if message["role"] == "assistant"]
        last = spoken[-1]["content"] if spoken and not isinstance(spoken[-1]["content"], str) else []
        kinds = [block["type"] for block in last]
        if manual and messages[-1]["role"] == "user" and "tool_use" in kinds and "thinking" not in kinds[0]:
            raise Refused("Expected `thinking` or `redacted_thinking`, but found another block in the final turn")
        sent = [block for block in last if "thinking" in block["type"]]
        calls = {block["id"] for block in last if block["type"] == "tool_use"}
        if calls and self._given:
            whole = self._given[-len(sent) :] if sent else []
            if [_plain(block) for block in sent] != [_plain(block) for block in whole]:
                raise Refused(
                    "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified"
                )


def _plain(block: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != "cache_control"}


def _blocks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every block of a request in the order the cache sees them."""
    yield from body.get("tools") or []
    system = body.get("system")
    yield from [{"type": "text", "text": system}] if isinstance(system, str) else system or []
    for message in body.get("messages") or []:
        content = message["content"]
        yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def _events(message: dict[str, Any], pieces: int) -> Iterator[dict[str, Any]]:
    usage = message["usage"]
    head = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": head}
    for index, block in enumerate(message["content"]):
        opened, deltas = _streamed(block, pieces)
        yield {"type": "content_block_start", "index": index, "content_block": opened}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": usage["output_tokens"]},
    }
    yield {"type": "message_stop"}


def _streamed(block: dict[str, Any], pieces: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            deltas = [{"type": "text_delta", "text": piece} for piece in _cut(block["text"], pieces)]
            return {**block, "text": ""}, deltas
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _cut(block["thinking"], pieces)]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case "tool_use":
            written = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *_cut(written, pieces)]]
            return {**block, "input": {}}, deltas
        case _:
            return block, []


def _cut(value: str, pieces: int) -> list[str]:
    size = max(1, -(-len(value) // pieces))
    return [value[at : at + size] for at in range(0, len(value), size)]


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(_error_body(kind, message), status=status, headers=headers)


def _error_body(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
