"""A double of endpoints that embed: OpenAI's /v1/embeddings, and Ollama's own API.

A text's vector counts its words by meaning: words of one `MEANINGS` line share a number, so that "puppy" is near "dog".
"""

import base64
import struct
from collections import deque
from typing import Any
from zlib import crc32

from aiohttp import web

from tests.doubles.openai_chat import OpenAIDouble

DIM = 64
MEANINGS = [line.split() for line in ("dog puppy hound", "money cash salary", "car automobile vehicle")]


def vector_of(text: str, dim: int = DIM) -> list[float]:
    """Not of length one: that is the server's business."""
    numbers = [0.001] * dim
    for word in text.lower().split():
        meaning = next((at for at, words in enumerate(MEANINGS) if word in words), None)
        numbers[meaning if meaning is not None else len(MEANINGS) + crc32(word.encode()) % (dim - len(MEANINGS))] += 1
    return numbers


class EmbeddingDouble(OpenAIDouble):
    """`failures`: answers (status, body) to the next calls. `embedded`: the batches it was asked for. `most_chars`: a longer
    text is refused as too long. `shuffled`: it answers in another order. `ollama`: what /api/show says of its models."""

    def __init__(self, models: tuple[str, ...] = ("gpt-test", "text-embedding-test")) -> None:
        self.failures: deque[tuple[int, Any]] = deque()
        self.down: tuple[int, Any] | None = None
        self.embedded: list[list[str]] = []
        self.most_chars = 1_000_000
        self.shuffled = False
        self.dim = DIM
        super().__init__(models)

    def reset(self) -> None:
        super().reset()
        self.failures.clear()
        self.embedded.clear()
        self.down = None

    def _routes(self, app: web.Application) -> None:
        super()._routes(app)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/api/embed", self._ollama_embed)
        app.router.add_post("/api/show", self._ollama_show)

    def _asked(self, body: dict[str, Any]) -> tuple[list[str], web.Response | None]:
        given = body["input"]
        texts = [given] if isinstance(given, str) else given
        self.embedded.append(texts)
        refusal = self.failures.popleft() if self.failures else self.down
        if refusal is None and any(len(text) > self.most_chars for text in texts):
            message = "This model's maximum context length is 8192 tokens, however you requested more."
            refusal = (400, {"error": {"message": message, "code": "context_length_exceeded"}})
        if refusal is not None:
            return texts, web.json_response(refusal[1], status=refusal[0])
        return texts, None

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts, refusal = self._asked(body)
        if refusal is not None:
            return refusal
        data = [
            {"object": "embedding", "index": at, "embedding": self._shaped(text, body.get("encoding_format"))}
            for at, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        answer = {
            "object": "list",
            "data": data[::-1] if self.shuffled else data,
            "model": body["model"],
            "usage": usage,
        }
        return web.json_response(answer)

    def _shaped(self, text: str, encoding: str | None) -> Any:
        vector = vector_of(text, self.dim)
        if encoding == "base64":
            return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        return vector

    async def _ollama_embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts, refusal = self._asked(body)
        if refusal is not None:
            return refusal
        return web.json_response({"model": body["model"], "embeddings": [vector_of(text, self.dim) for text in texts]})

    async def _ollama_show(self, request: web.Request) -> web.Response:
        embeds = "embed" in (await request.json())["model"]
        facts = {"nomic-bert.embedding_length": self.dim, "nomic-bert.context_length": 2048}
        return web.json_response({"capabilities": ["embedding"] if embeds else ["completion"], "model_info": facts})
