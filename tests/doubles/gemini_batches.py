"""The batches of a Gemini double: operations that hold what was asked and what it came to. The official `google-genai` SDK
accepts them (tests/contract/test_gemini_double.py)."""

import itertools
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Answer = Callable[[Body], Awaitable[tuple[int, Body]]]
GRPC = {400: 3, 429: 8, 500: 13}
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


class GeminiBatchRoutes:
    """`answer`: a request -> (status, body). The rest is as `openai_batches.OpenAIBatchRoutes` has it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        self.batches: dict[str, Body] = {}
        self.gate: threading.Event | None = None
        self.refuse: tuple[int, Body] | None = None
        self.fail: Body | None = None
        self.expire = ""
        self.lose_answers = 0
        self.polls = 0

    def add(self, app: web.Application) -> None:
        app.router.add_get("/{version:v1|v1beta}/batches", self._list)
        app.router.add_get("/{version:v1|v1beta}/batches/{id}", self._retrieve)
        app.router.add_post("/{version:v1|v1beta}/batches/{id}:cancel", self._cancel)

    def lines(self, batch: Body) -> list[Body]:
        return batch["asked"]

    async def create(self, request: web.Request, model: str) -> web.Response:
        if self.refuse is not None:
            return web.json_response(self.refuse[1], status=self.refuse[0])
        batch = (await request.json())["batch"]
        asked = batch["inputConfig"]["requests"]["requests"]
        assert all("contents" in each["request"] for each in asked), asked
        name = f"batches/{next(self._numbers)}"
        self.batches[name] = {
            "name": name,
            "model": f"models/{model}",
            "displayName": batch.get("displayName"),
            "state": "PENDING",
            "asked": asked,
            "answers": [],
        }
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(self._operation(self.batches[name]))

    def _operation(self, batch: Body) -> Body:
        metadata: Body = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": batch["model"],
            "displayName": batch["displayName"],
            "createTime": "2026-01-01T00:00:00.000000000Z",
            "state": f"BATCH_STATE_{batch['state']}",
            "name": batch["name"],
        }
        shown: Body = {"name": batch["name"], "metadata": metadata}
        if batch["state"] not in ENDED:
            return shown
        if batch["state"] == "FAILED":
            return {**shown, "done": True, "error": {"code": 3, "message": batch["said"]}}
        metadata["output"] = {"inlinedResponses": {"inlinedResponses": batch["answers"]}}
        return {**shown, "done": True, "response": {**metadata["output"]}}

    async def _list(self, request: web.Request) -> web.Response:
        newest, at = list(self.batches.values())[::-1], int(request.query.get("pageToken", 0))
        limit = int(request.query.get("pageSize", 50))
        more = {"nextPageToken": str(at + limit)} if at + limit < len(newest) else {}
        return web.json_response({"operations": [self._operation(each) for each in newest[at : at + limit]], **more})

    async def _retrieve(self, request: web.Request) -> web.Response:
        self.polls += 1
        batch = self.batches[f"batches/{request.match_info['id']}"]
        await self._work(batch)
        return web.json_response(self._operation(batch))

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[f"batches/{request.match_info['id']}"]
        if batch["state"] in ENDED:
            error = {"code": 400, "message": "It has ended.", "status": "FAILED_PRECONDITION"}
            return web.json_response({"error": error}, status=400)
        batch["state"] = "CANCELLED"
        return web.json_response({})

    async def _work(self, batch: Body) -> None:
        """One state further, if nothing holds it up."""
        if batch["state"] in ENDED:
            return
        if batch["state"] == "PENDING":
            if self.fail is not None:
                batch.update(state="FAILED", said=self.fail["message"])
            else:
                batch["state"] = "RUNNING"
        elif self.gate is None or self.gate.is_set():
            in_time = [each for each in batch["asked"] if not self.expire or self.expire not in json.dumps(each)]
            batch["answers"] = [await self._one(each) for each in in_time][::-1]
            batch["state"] = "SUCCEEDED" if len(in_time) == len(batch["asked"]) else "EXPIRED"

    async def _one(self, asked: Body) -> Body:
        status, body = await self._answer(asked["request"])
        if status == 200:
            return {"response": body, "metadata": asked.get("metadata")}
        said = {"code": GRPC.get(status, 2), "message": body["error"]["message"]}
        return {"error": said, "metadata": asked.get("metadata")}
