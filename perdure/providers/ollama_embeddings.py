"""Embeddings by Ollama's own API: POST /api/embed, which cuts a text that is too long by itself."""

from array import array
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.core.archives import Vector
from perdure.core.errors import ProviderError
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_embeddings import batches

AT_ONCE = 32
CHARS_AT_ONCE = 200_000
TIMEOUT_S = 300.0  # it may load the model first


class _Answer(Struct):
    embeddings: list[list[float]]


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


class OllamaEmbedder:
    """Implements `embeddings.Embedder`. `root`: where Ollama's own API lies."""

    def __init__(self, http: Http, root: Endpoint, model: str) -> None:
        self._http = http
        self._root = root
        self._model = model

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        vectors: list[Vector] = []
        for batch in batches(texts, AT_ONCE, CHARS_AT_ONCE):
            body = _encode({"model": self._model, "input": batch, "truncate": True})
            raw = await self._http.call(self._root, "/api/embed", body, timeout_s=TIMEOUT_S)
            try:
                answer = _decode(raw)
            except msgspec.DecodeError as cause:
                raise ProviderError(f"{self._root.name} answered /api/embed with something else: {cause}.") from cause
            if len(answer.embeddings) != len(batch):
                raise ProviderError(
                    f"{self._root.name} answered {len(answer.embeddings)} embeddings for {len(batch)} texts."
                )
            vectors += [array("f", values) for values in answer.embeddings]
        return vectors
