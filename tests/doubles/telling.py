"""A double of servers that load models themselves (Ollama, LM Studio): chat completions, and what they tell of their models."""

from typing import Any

from aiohttp import web

from tests.doubles.openai_chat import OpenAIDouble


class Telling(OpenAIDouble):
    """Answers, besides chat completions, what it is given by path; a path that is not there is a 404."""

    def __init__(self, models: tuple[str, ...], told: dict[str, Any]) -> None:
        self.told = told
        super().__init__(models)

    def _routes(self, app: web.Application) -> None:
        super()._routes(app)
        app.router.add_route("*", "/{path:.*}", self._tell)

    async def _tell(self, request: web.Request) -> web.Response:
        told = self.told.get(request.path)
        if callable(told):
            told = told((await request.json())["model"])
        return web.json_response(told) if told is not None else web.json_response({"error": "not found"}, status=404)
