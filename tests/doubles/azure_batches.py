"""Azure OpenAI by a double: OpenAI's API at Azure's addresses, with files that are read only after a while."""

from typing import Any

from aiohttp import web

from tests.doubles.openai_batches import Body, OpenAIBatchRoutes
from tests.doubles.openai_chat import OpenAIDouble, Turn

NEW, OLD = "/openai/v1", "/openai"
FORM = {"purpose", "expires_after[anchor]", "expires_after[seconds]", "file"}


class AzureDouble(OpenAIDouble):
    """`older`: it is asked at the addresses of the older API, which carry a version."""

    def __init__(self, *, older: bool = False) -> None:
        self.older = older
        super().__init__()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _routes(self, app: web.Application) -> None:
        self.batches = AzureBatchRoutes(self._batched, older=self.older)
        self.batches.add(app, OLD if self.older else NEW)
        called = "/openai/deployments/{name}/chat/completions" if self.older else f"{NEW}/chat/completions"
        app.router.add_post(called, self._chat)

    def _batched_answer(self, path: str, turn: Turn, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/chat/completions"
        return self._whole(turn, body)


class AzureBatchRoutes(OpenAIBatchRoutes):
    """`unreadable`: no file can be read. `reading`: how often a file says that it is not read yet."""

    def __init__(self, answer: Any, *, older: bool) -> None:
        self._older = older
        super().__init__(answer)

    def clear(self) -> None:
        super().clear()
        self.unreadable = False
        self.reading = 1
        self._asked: dict[str, int] = {}

    def add(self, app: web.Application, root: str = NEW) -> None:
        super().add(app, root)
        app.router.add_get(f"{root}/files/{{id}}", self._retrieve_file)
        app.middlewares.append(self._versioned)

    @web.middleware
    async def _versioned(self, request: web.Request, handler: Any) -> web.StreamResponse:
        assert ("api-version" in request.query) == self._older, request.path_qs
        return await handler(request)

    async def _upload(self, request: web.Request) -> web.Response:
        assert set(await request.post()) == ({"purpose", "file"} if self._older else FORM)
        return await super()._upload(request)

    async def _retrieve_file(self, request: web.Request) -> web.Response:
        file_id = request.match_info["id"]
        asked = self._asked[file_id] = self._asked.get(file_id, 0) + 1
        status = "error" if self.unreadable else "pending" if asked <= self.reading else "processed"
        return web.json_response({**self._file(file_id, "batch"), "status": status, "status_details": "Not JSONL."})

    def _file(self, file_id: str, purpose: str) -> Body:
        if file_id not in self.files:
            self.files[file_id] = ("other.jsonl", b"")
        return super()._file(file_id, purpose)

    def _wrong_batch(self, body: Body) -> str | None:
        if body["endpoint"] not in ("/chat/completions", "/v1/responses"):
            return f"Invalid endpoint: {body}"
        if ("output_expires_after" in body) == self._older:
            return f"Wrong output_expires_after: {body}"
        known = self._asked.get(body["input_file_id"], 0) > self.reading
        return (
            None if known else "The input file is in 'pending' state. Only files with status 'Processed' are accepted."
        )
