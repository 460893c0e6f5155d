"""The Message Batches of an Anthropic double: each request is checked and answered as by itself, all at once, when it is time."""

import itertools
import json
import re
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Answer = Callable[[Body], Awaitable[tuple[str, Body]]]
KINDS = ("processing", "succeeded", "errored", "canceled", "expired")


class AnthropicBatchRoutes:
    """`answer`: of one call, ("succeeded", message) or ("errored", error). `gate`, `expire`, `lose_answers`: as of the OpenAI
    double. `headers` holds those that batches were made with."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        self.batches: dict[str, Body] = {}
        self.requests: dict[str, list[Body]] = {}
        self.results: dict[str, list[Body]] = {}
        self.headers: list[dict[str, str]] = []
        self.gate: threading.Event | None = None
        self.expire = ""
        self.lose_answers = 0
        self.polls = 0

    def add(self, app: web.Application) -> None:
        app.router.add_post("/v1/messages/batches", self._create)
        app.router.add_get("/v1/messages/batches", self._list)
        app.router.add_get("/v1/messages/batches/{id}", self._retrieve)
        app.router.add_get("/v1/messages/batches/{id}/results", self._results)
        app.router.add_post("/v1/messages/batches/{id}/cancel", self._cancel)

    def make(self, requests: list[Body], *, host: str = "localhost") -> Body:
        """A batch, whoever made it."""
        batch_id = f"msgbatch_{next(self._numbers)}"
        now = datetime.now(UTC)
        counts = dict.fromkeys(KINDS, 0) | {"processing": len(requests)}
        self.requests[batch_id] = requests
        self.batches[batch_id] = {
            "id": batch_id,
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": counts,
            "created_at": now.isoformat(),
            "expires_at": (now + timedelta(days=1)).isoformat(),
            "ended_at": None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": None,
            "host": host,
        }
        return self.batches[batch_id]

    def _shown(self, batch: Body) -> Body:
        return {key: value for key, value in batch.items() if key != "host"}

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        ids = [each["custom_id"] for each in body["requests"]]
        if len(set(ids)) != len(ids) or not all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", id) for id in ids):
            return _error(400, f"custom_id: {ids}")
        if any("stream" in each["params"] for each in body["requests"]):
            return _error(400, "params.stream: not supported in a batch")
        batch = self.make(body["requests"], host=request.host)
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(self._shown(batch))

    async def _list(self, request: web.Request) -> web.Response:
        newest = list(self.batches.values())[::-1]
        at = next((n + 1 for n, b in enumerate(newest) if b["id"] == request.query.get("after_id")), 0)
        limit = int(request.query.get("limit", 20))
        page = newest[at : at + limit]
        return web.json_response(
            {
                "data": [self._shown(batch) for batch in page],
                "has_more": at + limit < len(newest),
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
            }
        )

    async def _retrieve(self, request: web.Request) -> web.Response:
        self.polls += 1
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "No such batch")
        ending = batch["processing_status"] == "canceling"
        if ending or (batch["processing_status"] == "in_progress" and (self.gate is None or self.gate.is_set())):
            await self._end(batch, canceled=ending)
        return web.json_response(self._shown(batch))

    async def _end(self, batch: Body, *, canceled: bool) -> None:
        results: list[Body] = []
        for each in self.requests[batch["id"]]:
            if canceled:
                result: Body = {"type": "canceled"}
            elif self.expire and self.expire in json.dumps(each["params"]):
                result = {"type": "expired"}
            else:
                kind, found = await self._answer(each["params"])
                result = {"type": kind, "message" if kind == "succeeded" else "error": found}
            results.append({"custom_id": each["custom_id"], "result": result})
        self.results[batch["id"]] = results[::-1]
        counts = {kind: sum(each["result"]["type"] == kind for each in results) for kind in KINDS}
        url = f"http://{batch['host']}/v1/messages/batches/{batch['id']}/results"
        batch.update(processing_status="ended", request_counts=counts, results_url=url)
        batch["ended_at"] = datetime.now(UTC).isoformat()

    async def _results(self, request: web.Request) -> web.Response:
        found = self.results.get(request.match_info["id"])
        if found is None:
            return _error(404, "The batch has no results yet")
        text = "".join(json.dumps(each) + "\n" for each in found)
        return web.Response(text=text, content_type="application/x-jsonl")

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch["processing_status"] == "ended":
            return _error(400, "The batch has ended")
        batch.update(processing_status="canceling", cancel_initiated_at=datetime.now(UTC).isoformat())
        return web.json_response(self._shown(batch))


def _error(status: int, message: str) -> web.Response:
    error = {"type": "invalid_request_error" if status == 400 else "not_found_error", "message": message}
    return web.json_response({"type": "error", "error": error}, status=status)
