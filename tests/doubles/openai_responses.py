"""A double of the Responses API: plays back scripted turns, remembers what it was asked, and refuses what the API refuses.

What it holds a request to: nothing stored; a call it made with reasoning comes back behind that reasoning, encrypted as it
was given; reasoning comes back only with what followed it; every call has one output, every output a call. The official
`openai` SDK accepts its answers (tests/contract/test_doubles.py).
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.doubles.openai_chat import OpenAIDouble, Turn, cut, scripted_failure

Body = dict[str, Any]


class ResponsesDouble(OpenAIDouble):
    """A turn may also carry: `reasoning` (a summary, or several in a list; empty: encrypted alone), `refusal`, `phase`,
    `finish` ("length" or "content_filter": an incomplete response), `error` (the response fails with it, after its items)."""

    def __init__(self, models: tuple[str, ...] = ("gpt-test",)) -> None:
        self._numbers = itertools.count(1)
        self._encrypted: dict[str, str] = {}
        self._behind: dict[str, str] = {}
        super().__init__(models)

    def _routes(self, app: web.Application) -> None:
        super()._routes(app)
        app.router.add_post("/v1/responses", self._responses)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if (wrong := self._wrong(body)) is not None:
            self.requests.append(body)
            error = {"message": wrong, "type": "invalid_request_error", "param": "input", "code": None}
            return web.json_response({"error": error}, status=400)
        turn = await self._next(body)
        if (odd := scripted_failure(turn)) is not None:
            return odd
        items = self._items(turn)
        if not body.get("stream"):
            return web.json_response(self._response(turn, body, items, _status(turn)))
        return await self._stream_items(request, turn, body, items)

    def _batched_answer(self, path: str, turn: Turn, body: Body) -> Body:
        if path != "/v1/responses":
            return super()._batched_answer(path, turn, body)
        wrong = self._wrong(body)
        assert wrong is None, wrong
        return self._response(turn, body, self._items(turn), _status(turn))

    def _wrong(self, body: Body) -> str | None:
        """What the API would say of this request; None: it would take it."""
        if body.get("store") is not False:
            return "This double stores nothing: send store=false."
        given = body.get("input")
        if isinstance(given, str):
            return None
        items: list[Body] = list(given or ())
        return self._wrong_reasoning(items) or _wrong_calls(items)

    def _wrong_reasoning(self, items: list[Body]) -> str | None:
        seen: set[str] = set()
        for at, item in enumerate(items):
            if item["type"] == "reasoning":
                if self._encrypted.get(item["id"]) != item.get("encrypted_content"):
                    return f"The encrypted content for item {item['id']} could not be verified."
                if at + 1 == len(items) or not _of_model(items[at + 1]):
                    return f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
                seen.add(item["id"])
            elif item["type"] == "function_call":
                behind = self._behind.get(item["call_id"])
                if behind is not None and behind not in seen:
                    return (
                        f"Item '{item.get('id')}' of type 'function_call' was provided without its required 'reasoning' "
                        f"item: '{behind}'."
                    )
        return None

    def _items(self, turn: Turn) -> list[Body]:
        items: list[Body] = []
        behind = None
        if "reasoning" in turn:
            summaries = turn["reasoning"] if isinstance(turn["reasoning"], list) else [turn["reasoning"]]
            behind = self._id("rs")
            self._encrypted[behind] = f"sealed-{behind}"
            items.append(
                {
                    "type": "reasoning",
                    "id": behind,
                    "summary": [{"type": "summary_text", "text": each} for each in summaries if each],
                    "encrypted_content": self._encrypted[behind],
                }
            )
        content: list[Body] = []
        if turn.get("content"):
            content.append({"type": "output_text", "text": turn["content"], "annotations": [], "logprobs": []})
        if turn.get("refusal"):
            content.append({"type": "refusal", "refusal": turn["refusal"]})
        if content:
            message = {"type": "message", "id": self._id("msg"), "role": "assistant", "status": "completed"}
            phase = {"phase": turn["phase"]} if "phase" in turn else {}
            items.append({**message, "content": content, **phase})
        for call in turn.get("tool_calls") or ():
            if behind is not None:
                self._behind[call["id"]] = behind
            head = {"type": "function_call", "id": self._id("fc"), "call_id": call["id"], "status": "completed"}
            items.append({**head, "name": call["name"], "arguments": call["arguments"]})
        return items

    def _id(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers):04d}"

    def _response(self, turn: Turn, body: Body, items: list[Body], status: str) -> Body:
        finish = turn.get("finish")
        reason = {"length": "max_output_tokens"}.get(finish or "", finish) if status == "incomplete" else None
        usage = {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 15,
        }
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": status,
            "error": turn.get("error") if status == "failed" else None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "model": body.get("model"),
            "output": items,
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
            "store": False,
            "temperature": 1.0,
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": turn.get("usage") or usage if status in ("completed", "incomplete") else None,
            "metadata": {},
        }

    async def _stream_items(
        self, request: web.Request, turn: Turn, body: Body, items: list[Body]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, event in enumerate(self.events(turn, body, items)):
            if turn.get("die_after") is not None and number >= turn["die_after"]:
                assert request.transport is not None
                request.transport.close()
                return response
            data = json.dumps({**event, "sequence_number": number})
            await response.write(f"event: {event['type']}\ndata: {data}\n\n".encode())
        await response.write_eof()
        return response

    def events(self, turn: Turn, body: Body, items: list[Body]) -> Iterator[Body]:
        """The events of a whole stream, without their sequence numbers."""
        opened = self._response(turn, body, [], "in_progress")
        yield {"type": "response.created", "response": opened}
        yield {"type": "response.in_progress", "response": opened}
        for index, item in enumerate(items):
            yield from item_events(item, index, turn.get("pieces", 3))
        status = _status(turn)
        yield {"type": f"response.{status}", "response": self._response(turn, body, items, status)}


def _status(turn: Turn) -> str:
    if turn.get("error"):
        return "failed"
    return "incomplete" if turn.get("finish") in ("length", "content_filter") else "completed"


def _of_model(item: Body) -> bool:
    return item["type"] in ("function_call", "reasoning") or item.get("role") == "assistant"


def _wrong_calls(items: list[Body]) -> str | None:
    calls = [item["call_id"] for item in items if item["type"] == "function_call"]
    outputs = [item["call_id"] for item in items if item["type"] == "function_call_output"]
    for call_id in calls:
        if call_id not in outputs:
            return f"No tool output found for function call {call_id}."
    for call_id in outputs:
        if call_id not in calls:
            return f"No tool call found for function call output with call_id {call_id}."
    return None


def item_events(item: Body, index: int, pieces: int) -> Iterator[Body]:
    """One output item as the events it is streamed in."""
    place = {"item_id": item["id"], "output_index": index}
    if item["type"] == "message":
        yield _item_event("added", index, {**item, "status": "in_progress", "content": []})
        for number, part in enumerate(item["content"]):
            yield from _content_events(part, {**place, "content_index": number}, pieces)
    elif item["type"] == "reasoning":
        yield _item_event("added", index, {**item, "summary": [], "encrypted_content": "begun"})
        for number, part in enumerate(item["summary"]):
            yield from _summary_events(part, {**place, "summary_index": number}, pieces)
    else:
        yield _item_event("added", index, {**item, "status": "in_progress", "arguments": ""})
        for piece in cut(item["arguments"], pieces):
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]}
    yield _item_event("done", index, item)


def _item_event(what: str, index: int, item: Body) -> Body:
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}


def _content_events(part: Body, place: Body, pieces: int) -> Iterator[Body]:
    key = "refusal" if part["type"] == "refusal" else "text"
    kind = "refusal" if key == "refusal" else "output_text"
    more = {} if key == "refusal" else {"logprobs": []}
    yield {"type": "response.content_part.added", **place, "part": {**part, key: ""}}
    for piece in cut(part[key], pieces):
        yield {"type": f"response.{kind}.delta", **place, "delta": piece, **more}
    yield {"type": f"response.{kind}.done", **place, key: part[key], **more}
    yield {"type": "response.content_part.done", **place, "part": part}


def _summary_events(part: Body, place: Body, pieces: int) -> Iterator[Body]:
    yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
    for piece in cut(part["text"], pieces):
        yield {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
    yield {"type": "response.reasoning_summary_text.done", **place, "text": part["text"]}
    yield {"type": "response.reasoning_summary_part.done", **place, "part": part}
