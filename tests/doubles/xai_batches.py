"""xAI's batches by a double that otherwise speaks as OpenAI's does: counts instead of a status, results in pages."""

import json

from aiohttp import web

from tests.doubles.openai_batches import Body, OpenAIBatchRoutes
from tests.doubles.openai_chat import OpenAIDouble

RESULTS = 2
GRPC = {400: 3, 429: 8, 500: 13}


class XaiDouble(OpenAIDouble):
    def _routes(self, app: web.Application) -> None:
        self.batches = XaiBatchRoutes(self._batched)
        super()._routes(app)


class XaiBatchRoutes(OpenAIBatchRoutes):
    def add(self, app: web.Application, root: str = "/v1") -> None:
        app.router.add_post(f"{root}/files", self._upload_first)
        app.router.add_post(f"{root}/batches", self._create_named)
        app.router.add_get(f"{root}/batches", self._list_named)
        app.router.add_get(f"{root}/batches/{{id}}", self._retrieve_named)
        app.router.add_get(f"{root}/batches/{{id}}/results", self._results)
        app.router.add_post(f"{root}/batches/{{id}}:cancel", self._cancel_named)

    async def _upload_first(self, request: web.Request) -> web.Response:
        """Its fields come before the file, or are refused."""
        form = await request.post()
        assert list(form) == ["expires_after", "file"], list(form)
        file_id = self._keep("calls.jsonl", form["file"].file.read())  # type: ignore[union-attr]
        return web.json_response({"id": file_id, "filename": "calls.jsonl", "expires_at": 1})

    async def _create_named(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert set(body) == {"name", "input_file_id"}, body
        if self.refuse is not None:
            return web.json_response(self.refuse[1], status=self.refuse[0])
        batch_id = f"batch_{next(self._numbers)}"
        self.batches[batch_id] = {
            **body,
            "id": batch_id,
            "endpoint": "/v1/chat/completions",
            "status": "validating",
            "results": [],
            "total": 0,
        }
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(self._shown(self.batches[batch_id]))

    async def _list_named(self, request: web.Request) -> web.Response:
        newest, at = list(self.batches.values())[::-1], int(request.query.get("pagination_token", 0))
        limit = int(request.query["limit"])
        token = str(at + limit) if at + limit < len(newest) else ""
        page = [self._shown(batch) for batch in newest[at : at + limit]]
        return web.json_response({"batches": page, "pagination_token": token})

    async def _retrieve_named(self, request: web.Request) -> web.Response:
        self.polls += 1
        batch = self.batches[request.match_info["id"]]
        await self._work(batch)
        return web.json_response(self._shown(batch))

    async def _results(self, request: web.Request) -> web.Response:
        found, at = self.batches[request.match_info["id"]]["results"], int(request.query.get("pagination_token", 0))
        token = str(at + RESULTS) if at + RESULTS < len(found) else None
        return web.json_response({"results": found[at : at + RESULTS], "pagination_token": token})

    async def _cancel_named(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch["status"] in ("completed", "failed", "cancelled"):
            return web.json_response({"code": "invalid", "error": "It has ended."}, status=400)
        batch["status"] = "cancelling"
        return web.json_response(self._shown(batch))

    def _shown(self, batch: Body) -> Body:
        state: dict[str, int] = dict.fromkeys(
            ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled"), 0
        )
        if batch["status"] == "in_progress":
            state.update(num_requests=len(self.lines(batch)), num_pending=len(self.lines(batch)))
        failed = [each for each in batch["results"] if "error" in each["batch_result"]]
        if batch["results"]:
            done = len(batch["results"])
            state.update(num_requests=done, num_success=done - len(failed), num_error=len(failed))
        errors = (batch.get("errors") or {}).get("data") or [{}]
        return {
            "batch_id": batch["id"],
            "name": batch["name"],
            "input_file_id": batch["input_file_id"],
            "cancel_time": "2026-01-01" if batch["status"] in ("cancelled", "failed") else None,
            "cancel_by_xai_message": errors[0].get("message"),
            "state": state,
        }

    async def _end(self, batch: Body) -> None:
        for line in self.lines(batch):
            if self.expire and self.expire in json.dumps(line["body"]):
                continue
            status, body = await self._answer(line["url"], line["body"])
            message = str((body.get("error") or {}).get("message"))
            failed = {"code": GRPC.get(status, 2), "message": message}
            outcome = {"response": {"chat_get_completion": body}} if status == 200 else {"error": failed}
            batch["results"].append({"batch_request_id": line["custom_id"], "batch_result": outcome})
        batch["status"] = "completed"
