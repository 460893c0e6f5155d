"""Embedding models: handles to embedders, and what there is of them.

A vector has length one, so that a dot product is the cosine. A handle is `<provider>/<model>`; the embedded model, which needs
no provider, is `wordllama/...`. Invariant: vectors of one handle have one length, and an answer with another is refused.
"""

import asyncio
import math
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import msgspec

from perdure.core.archives import Vector
from perdure.core.errors import Invalid, NotFound, ProviderError
from perdure.providers.base import ModelInfo
from perdure.providers.catalogue import EMBEDDING_DIMS, auth_headers
from perdure.providers.endpoint import ChatProvider
from perdure.providers.http import Endpoint
from perdure.providers.ollama_embeddings import OllamaEmbedder
from perdure.providers.openai_embeddings import OpenAIEmbedder
from perdure.providers.registry import Registry
from perdure.providers.wordllama import HANDLE, PROVIDER, WordLlama, wordllama_info

KEPT_QUERIES = 256
NO_MODEL = (
    "There is no embedding model: install the embedded one with pip install 'perdure[local]', or set PERDURE_EMBEDDING to the "
    "handle of a provider's."
)


class Embedder(Protocol):
    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, in order. ProviderError; a text too long for the model is cut to what it takes."""
        ...


class Embeddings:
    """`default`: the handle of the server's own model; None picks the embedded one where it is installed, "none" is none."""

    def __init__(self, registry: Registry, *, default: str | None = None) -> None:
        self._registry = registry
        self._wordllama = WordLlama() if wordllama_info() is not None else None
        self._embedders: dict[str, Embedder] = {}
        self._changes = 0
        self._dims: dict[str, int] = {}  # as vectors came
        self._told: dict[str, int] = {}  # as providers say
        self._queries: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self.default = None if default == "none" else default or (HANDLE if self._wordllama is not None else None)

    async def models(self) -> list[ModelInfo]:
        """Every provider's embedding models, the embedded one first. `embedding_dim` None: not known before its first use."""
        found = [info for info in await self._registry.models() if info.kind == "embedding"]
        if (embedded := wordllama_info()) is not None:
            found.insert(0, embedded)
        return [
            info if info.embedding_dim else msgspec.structs.replace(info, embedding_dim=self._dims.get(info.handle))
            for info in found
        ]

    def dim(self, handle: str) -> int | None:
        """Numbers in a vector, as far as that is known."""
        if handle == HANDLE and (info := wordllama_info()) is not None:
            return info.embedding_dim
        return self._dims.get(handle) or self._told.get(handle) or EMBEDDING_DIMS.get(handle.partition("/")[2])

    def least_similarity(self, handle: str) -> float:
        """Below it a text has nothing to do with the query; -1.0 where nothing is known of the model."""
        return WordLlama.least_similarity if handle == HANDLE else -1.0

    async def check(self, handle: str) -> None:
        """NotFound, naming what there is, for a handle nobody serves. A provider that cannot be asked is trusted."""
        await self._embedder(handle)

    async def embed(self, handle: str, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, in order. NotFound for a handle nobody serves, ProviderError."""
        if not texts:
            return []
        vectors = await (await self._embedder(handle)).embed(texts)
        if len(vectors) != len(texts):
            raise ProviderError(f"{handle} answered {len(vectors)} vectors for {len(texts)} texts.")
        dim = self._dims.get(handle) or len(vectors[0])
        if not dim or any(len(vector) != dim for vector in vectors):
            lengths = sorted({len(vector) for vector in vectors})
            raise ProviderError(f"{handle} answered vectors of {lengths} numbers; before they had {dim}.")
        self._dims[handle] = dim
        return [unit(vector) for vector in vectors]

    async def embed_query(self, handle: str, text: str, *, timeout_s: float) -> Vector:
        """As `embed` for one text that may be asked for again; ProviderError when it takes longer."""
        kept = self._queries.get((handle, text))
        if kept is not None:
            self._queries.move_to_end((handle, text))
            return kept
        try:
            async with asyncio.timeout(timeout_s):
                (vector,) = await self.embed(handle, [text])
        except TimeoutError as cause:
            raise ProviderError(f"{handle} did not answer within {timeout_s:g} s.", kind="llm_timeout") from cause
        self._queries[(handle, text)] = vector
        if len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)
        return vector

    def close(self) -> None:
        if self._wordllama is not None:
            self._wordllama.close()

    async def _embedder(self, handle: str) -> Embedder:
        if self._changes != self._registry.changes:  # what they were made of may be gone
            self._changes = self._registry.changes
            self._embedders.clear()
        found = self._embedders.get(handle)
        if found is None:
            found = self._embedders[handle] = await self._open(handle)
        return found

    async def _open(self, handle: str) -> Embedder:
        provider_name, _, name = handle.partition("/")
        if provider_name == PROVIDER:
            if self._wordllama is None:
                raise NotFound(f"{handle}: the embedded model is not installed: pip install 'perdure[local]'")
            if handle != HANDLE:
                raise NotFound(f"There is no embedding model {handle!r}; the embedded one is {HANDLE}.")
            return self._wordllama
        provider = await self._registry.provider(handle)
        if not isinstance(provider, ChatProvider) or provider.profile.messages_api is not None:
            raise NotFound(f"Provider {provider_name!r} serves no embedding models (handle {handle}).")
        info, listed = await provider.find(name)
        if info is None and listed is not None and not provider.any_model and name not in EMBEDDING_DIMS:
            shown = ", ".join(each.handle for each in listed if each.kind == "embedding") or "none"
            raise NotFound(f"{provider_name} has no embedding model {name!r} (handle {handle}). It has: {shown}.")
        if info is not None and info.embedding_dim:
            self._told[handle] = info.embedding_dim
        true_name = info.name if info is not None else name
        if provider.config.kind == "ollama":
            root = Endpoint(provider.name, provider.root_url, headers=auth_headers(provider.config))
            return OllamaEmbedder(provider.http, root, true_name)
        return OpenAIEmbedder(provider.http, provider.endpoint, true_name)


def unit(values: Sequence[float]) -> Vector:
    """The vector of length one in that direction. ProviderError for one that is no direction."""
    length = math.sqrt(sum(value * value for value in values))
    if not math.isfinite(length):
        raise ProviderError("An embedding holds a number that is not finite.")
    if length == 0:
        return array("f", values)
    return array("f", [value / length for value in values])


def handle_of(provider: str | None, model: str | None) -> str:
    """The handle that an older client's embedding configuration means."""
    if not provider or not model:
        raise Invalid("embedding_config: needs a handle, or embedding_endpoint_type and embedding_model", status=422)
    return f"{provider}/{model}"
