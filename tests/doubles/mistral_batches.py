"""Mistral's batch jobs, by a double that otherwise speaks as OpenAI's does: the same files, jobs of another shape."""

from typing import Any

from aiohttp import web

from tests.doubles.openai_batches import OpenAIBatchRoutes
from tests.doubles.openai_chat import OpenAIDouble

Body = dict[str, Any]
STATUS = {
    "validating": "QUEUED",
    "in_progress": "RUNNING",
    "completed": "SUCCESS",
    "failed": "FAILED",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelling": "CANCELLATION_REQUESTED",
    "cancelled": "CANCELLED",
}


class MistralDouble(OpenAIDouble):
    def _routes(self, app: web.Application) -> None:
        self.batches = MistralJobRoutes(self._batched)
        super()._routes(app)


class MistralJobRoutes(OpenAIBatchRoutes):
    def add(self, app: web.Application, root: str = "/v1") -> None:
        app.router.add_post(f"{root}/files", self._upload)
        app.router.add_get(f"{root}/files/{{id}}/content", self._content)
        app.router.add_post(f"{root}/batch/jobs", self._create_job)
        app.router.add_get(f"{root}/batch/jobs", self._list_jobs)
        app.router.add_get(f"{root}/batch/jobs/{{id}}", self._retrieve_job)
        app.router.add_post(f"{root}/batch/jobs/{{id}}/cancel", self._cancel)

    async def _create_job(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert set(body) == {"input_files", "model", "endpoint", "metadata", "timeout_hours"}, body
        batch_id = f"job-{next(self._numbers)}"
        self.batches[batch_id] = {
            **{key: body[key] for key in ("endpoint", "metadata", "model")},
            "id": batch_id,
            "input_file_id": body["input_files"][0],
            "status": "validating",
            "created_at": 1,
        }
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(self._job(self.batches[batch_id]))

    async def _list_jobs(self, request: web.Request) -> web.Response:
        size, page = int(request.query["page_size"]), int(request.query["page"])
        newest = [self._job(batch) for batch in self.batches.values()][::-1]
        data = newest[page * size : (page + 1) * size]
        return web.json_response({"object": "list", "total": len(newest), "data": data})

    async def _retrieve_job(self, request: web.Request) -> web.Response:
        self.polls += 1
        batch = self.batches[request.match_info["id"]]
        await self._work(batch)
        return web.json_response(self._job(batch))

    def _file(self, file_id: str, purpose: str) -> Body:
        return {**super()._file(file_id, purpose), "sample_type": "batch_request", "source": "upload"}

    def _job(self, batch: Body) -> Body:
        counts = batch.get("request_counts") or {"total": 0, "completed": 0, "failed": 0}
        return {
            "id": batch["id"],
            "object": "batch",
            "input_files": [batch["input_file_id"]],
            "metadata": batch["metadata"],
            "endpoint": batch["endpoint"],
            "model": batch["model"],
            "output_file": batch.get("output_file_id"),
            "error_file": batch.get("error_file_id"),
            "errors": [
                {"message": each["message"], "count": 1} for each in (batch.get("errors") or {}).get("data", ())
            ],
            "status": STATUS[batch["status"]],
            "created_at": batch["created_at"],
            "total_requests": counts["total"],
            "completed_requests": counts["completed"] + counts["failed"],
            "succeeded_requests": counts["completed"],
            "failed_requests": counts["failed"],
        }

    def _wrong(self, batch: Body) -> Body | None:
        if any(set(line) != {"custom_id", "body"} for line in self.lines(batch)):
            return {"code": "invalid", "message": "A line holds a custom_id and a body."}
        return None

    def lines(self, batch: Body) -> list[Body]:
        return [
            {**line, "url": batch["endpoint"]} if batch["status"] == "in_progress" else line
            for line in super().lines(batch)
        ]
