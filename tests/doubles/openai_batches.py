"""The files and batches of an OpenAI double: what is handed in is answered by its scripted turns, all at once, when it is time.

It keeps to what the API says of itself: a file of calls is checked before it becomes a batch, results come in any order, errors
in a file of their own. The official `openai` SDK accepts its answers (tests/contract/test_doubles.py).
"""

import itertools
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Answer = Callable[[str, Body], Awaitable[tuple[int, Any]]]
BATCHABLE = ("/v1/chat/completions", "/v1/responses")
ENDED = ("completed", "failed", "expired", "cancelled")


class OpenAIBatchRoutes:
    """`answer`: (path, body) -> (status, body) of one call. `gate`: while it is closed, no batch is worked on. `refuse`: (status,
    body) for those who want to make a batch. `fail`: the error of a batch that is not accepted by its file. `expire`: the words
    whose requests are not come to in time. `lose_answers`: how many batches are made without their maker hearing of it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, Body] = {}
        self.gate: threading.Event | None = None
        self.refuse: tuple[int, Body] | None = None
        self.fail: Body | None = None
        self.expire = ""
        self.lose_answers = 0
        self.polls = 0

    def add(self, app: web.Application, root: str = "/v1") -> None:
        app.router.add_post(f"{root}/files", self._upload)
        app.router.add_get(f"{root}/files/{{id}}/content", self._content)
        app.router.add_post(f"{root}/batches", self._create)
        app.router.add_get(f"{root}/batches", self._list)
        app.router.add_get(f"{root}/batches/{{id}}", self._retrieve)
        app.router.add_post(f"{root}/batches/{{id}}/cancel", self._cancel)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file: Any = form["file"]
        file_id = self._keep(file.filename, file.file.read())
        return web.json_response(self._file(file_id, str(form["purpose"])))

    def _keep(self, name: str, content: bytes) -> str:
        file_id = f"file-{next(self._numbers)}"
        self.files[file_id] = (name, content)
        return file_id

    def _file(self, file_id: str, purpose: str) -> Body:
        name, content = self.files[file_id]
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 1,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }

    async def _content(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.files:
            return _error(404, "No such File object")
        return web.Response(body=self.files[request.match_info["id"]][1], content_type="application/octet-stream")

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.refuse is not None:
            return web.json_response(self.refuse[1], status=self.refuse[0])
        if (wrong := self._wrong_batch(body)) is not None:
            return _error(400, wrong)
        batch_id = f"batch_{next(self._numbers)}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "errors": None,
            "input_file_id": body["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": 1,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.get("metadata"),
        }
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(self.batches[batch_id])

    def _wrong_batch(self, body: Body) -> str | None:
        good = body["endpoint"] in BATCHABLE and body["completion_window"] == "24h"
        return None if good else f"Invalid endpoint or completion_window: {body}"

    async def _list(self, request: web.Request) -> web.Response:
        newest = list(self.batches.values())[::-1]
        at = next((n + 1 for n, b in enumerate(newest) if b["id"] == request.query.get("after")), 0)
        limit = int(request.query.get("limit", 20))
        page = newest[at : at + limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return web.json_response({"object": "list", "data": page, **ends, "has_more": at + limit < len(newest)})

    async def _retrieve(self, request: web.Request) -> web.Response:
        self.polls += 1
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "No batch found")
        await self._work(batch)
        return web.json_response(batch)

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch["status"] in ENDED:
            return _error(400, f"Cannot cancel a batch with status '{batch['status']}'.")
        batch["status"] = "cancelling"
        return web.json_response(batch)

    async def _work(self, batch: Body) -> None:
        """One state further, if nothing holds it up."""
        if batch["status"] in ENDED:
            return
        if batch["status"] == "cancelling":
            batch["status"] = "cancelled"
        elif batch["status"] == "validating":
            wrong = self.fail or self._wrong(batch)
            if wrong is not None:
                batch.update(status="failed", errors={"object": "list", "data": [wrong]})
            else:
                batch["status"] = "in_progress"
        elif self.gate is None or self.gate.is_set():
            await self._end(batch)

    def lines(self, batch: Body) -> list[Body]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]][1].splitlines()]

    def _wrong(self, batch: Body) -> Body | None:
        lines = self.lines(batch)
        for line in lines:
            if set(line) != {"custom_id", "method", "url", "body"} or line["url"] != batch["endpoint"]:
                return {"code": "invalid_request", "message": f"Wrong line: {line}", "line": 1, "param": None}
            if "stream" in line["body"]:
                return {"code": "invalid_request", "message": "Streaming is not supported in a batch."}
        if len({line["custom_id"] for line in lines}) != len(lines):
            return {"code": "duplicate_custom_id", "message": "The custom_id of each request must be unique."}
        if len({line["body"]["model"] for line in lines}) != 1:
            return {"code": "mismatched_model", "message": "All requests of a batch must be for one model."}
        return None

    async def _end(self, batch: Body) -> None:
        good: list[Body] = []
        bad: list[Body] = []
        for line in self.lines(batch):
            result: Body = {"id": f"batch_req_{next(self._numbers)}", "custom_id": line["custom_id"]}
            if self.expire and self.expire in json.dumps(line["body"]):
                error = {"code": "batch_expired", "message": "The completion window expired before this request."}
                bad.append({**result, "response": None, "error": error})
                batch["status"] = "expired"
                continue
            status, body = await self._answer(line["url"], line["body"])
            response = {"status_code": status, "request_id": "req_1", "body": body}
            (good if status == 200 else bad).append({**result, "response": response, "error": None})
        if batch["status"] != "expired":
            batch["status"] = "completed"
        batch["request_counts"] = {"total": len(good) + len(bad), "completed": len(good), "failed": len(bad)}
        for kind, found in (("output_file_id", good), ("error_file_id", bad)):
            if found:
                content = "".join(json.dumps(each) + "\n" for each in reversed(found))
                batch[kind] = self._keep(f"{batch['id']}.jsonl", content.encode())


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status)
