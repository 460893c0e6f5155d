"""Embeddings by OpenAI's API: POST /embeddings, which most providers and engines speak.

Invariant: vectors come back in the order of the texts, whatever order the answer has them in.
"""

from array import array
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.core.archives import Vector
from perdure.core.errors import ProviderError
from perdure.providers.http import Endpoint, Http

AT_ONCE = 64
CHARS_AT_ONCE = 400_000
TIMEOUT_S = 60.0
LEAST_CHARS = 200


class _Item(Struct):
    embedding: list[float]
    index: int = 0


class _Answer(Struct):
    data: list[_Item]


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


class OpenAIEmbedder:
    """Implements `embeddings.Embedder` for a model of one endpoint."""

    def __init__(self, http: Http, endpoint: Endpoint, model: str) -> None:
        self._http = http
        self._endpoint = endpoint
        self._model = model

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        vectors: list[Vector] = []
        for batch in batches(texts, AT_ONCE, CHARS_AT_ONCE):
            vectors += await self._batch(batch)
        return vectors

    async def _batch(self, texts: Sequence[str]) -> list[Vector]:
        try:
            return await self._call(texts)
        except ProviderError as error:
            if not _too_long(error):
                raise
            if len(texts) > 1:  # one of them is; the others need not suffer for it
                return [vector for text in texts for vector in await self._batch([text])]
            if len(texts[0]) <= LEAST_CHARS:
                raise
            return await self._batch([texts[0][: len(texts[0]) // 2]])

    async def _call(self, texts: Sequence[str]) -> list[Vector]:
        # an empty text is refused by some; a space means as little
        body = _encode({"model": self._model, "input": [text or " " for text in texts], "encoding_format": "float"})
        raw = await self._http.call(self._endpoint, "/embeddings", body, timeout_s=TIMEOUT_S)
        try:
            items = sorted(_decode(raw).data, key=lambda item: item.index)
        except msgspec.DecodeError as cause:
            raise ProviderError(f"{self._endpoint.name} answered /embeddings with something else: {cause}.") from cause
        if len(items) != len(texts):
            raise ProviderError(f"{self._endpoint.name} answered {len(items)} embeddings for {len(texts)} texts.")
        return [array("f", item.embedding) for item in items]


def batches(texts: Sequence[str], most: int, most_chars: int) -> list[list[str]]:
    """At most `most` texts and, but for one that is longer by itself, `most_chars` characters in each."""
    found: list[list[str]] = []
    chars = 0
    for text in texts:
        if not found or len(found[-1]) >= most or chars + len(text) > most_chars:
            found.append([])
            chars = 0
        found[-1].append(text)
        chars += len(text)
    return found


def _too_long(error: ProviderError) -> bool:
    return error.kind == "context_window_exceeded" or error.status == 413
