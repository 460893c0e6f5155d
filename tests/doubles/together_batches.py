"""Together's batches by a double that otherwise speaks as OpenAI's does: jobs that know nothing but their file, and files that
lie elsewhere."""

from aiohttp import web

from tests.doubles.openai_batches import Body, OpenAIBatchRoutes
from tests.doubles.openai_chat import OpenAIDouble

STATUS = {
    "validating": "VALIDATING",
    "in_progress": "IN_PROGRESS",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelling": "IN_PROGRESS",
    "cancelled": "CANCELLED",
}


class TogetherDouble(OpenAIDouble):
    def _routes(self, app: web.Application) -> None:
        self.batches = TogetherBatchRoutes(self._batched)
        super()._routes(app)


class TogetherBatchRoutes(OpenAIBatchRoutes):
    def add(self, app: web.Application, root: str = "/v1") -> None:
        app.router.add_post(f"{root}/files/upload", self._upload)
        app.router.add_get(f"{root}/files/{{id}}/content", self._elsewhere)
        app.router.add_get("/stored/{id}", self._content)
        app.router.add_post(f"{root}/batches", self._create_job)
        app.router.add_get(f"{root}/batches", self._list_jobs)
        app.router.add_get(f"{root}/batches/{{id}}", self._retrieve_job)
        app.router.add_post(f"{root}/batches/{{id}}/cancel", self._cancel)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert (form["purpose"], form["file_type"]) == ("batch-api", "jsonl") and form["file_name"]
        return await super()._upload(request)

    async def _elsewhere(self, request: web.Request) -> web.Response:
        """By another name of this server, which therefore must not be told the key."""
        if request.match_info["id"] not in self.files:
            return web.json_response({"error": {"message": "No such file"}}, status=404)
        port = request.url.port
        raise web.HTTPFound(f"http://localhost:{port}/stored/{request.match_info['id']}")

    async def _content(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers
        return await super()._content(request)

    async def _create_job(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert set(body) == {"input_file_id", "endpoint", "completion_window"}, body
        if self.refuse is not None:
            return web.json_response(self.refuse[1], status=self.refuse[0])
        job_id = f"job-{next(self._numbers)}"
        self.batches[job_id] = {"id": job_id, **body, "status": "validating"}
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"job": self._job(self.batches[job_id]), "warning": ""}, status=201)

    async def _list_jobs(self, request: web.Request) -> web.Response:
        return web.json_response([self._job(batch) for batch in self.batches.values()][::-1])

    async def _retrieve_job(self, request: web.Request) -> web.Response:
        self.polls += 1
        batch = self.batches[request.match_info["id"]]
        await self._work(batch)
        return web.json_response(self._job(batch))

    def _job(self, batch: Body) -> Body:
        errors = (batch.get("errors") or {}).get("data") or [{}]
        return {
            "id": batch["id"],
            "user_id": "user",
            "input_file_id": batch["input_file_id"],
            "file_size_bytes": 1,
            "status": STATUS[batch["status"]],
            "created_at": "2026-01-01T00:00:00Z",
            "endpoint": batch["endpoint"],
            "progress": 0.0,
            "output_file_id": batch.get("output_file_id") or "",
            "error_file_id": batch.get("error_file_id") or "",
            "error": errors[0].get("message"),
        }

    def _wrong(self, batch: Body) -> Body | None:
        if any(set(line) != {"custom_id", "body"} for line in super().lines(batch)):
            return {"message": "A line holds a custom_id and a body."}
        return None

    def lines(self, batch: Body) -> list[Body]:
        return [{**line, "url": batch["endpoint"]} for line in super().lines(batch)]
