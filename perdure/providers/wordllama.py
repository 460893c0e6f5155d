"""The embedded embedding model: WordLlama's averaged word vectors, from the `wordllama` package's own files.

Only the two files are used (a tokenizer, a table of vectors), not the package's code, which would look for one of them on the
network. A text takes well under a millisecond of one core, on a thread of its own, so that the event loop is never held up.
Source of the model: github.com/dleemiller/WordLlama, `l2_supercat`, 256 numbers.
"""

import asyncio
import json
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perdure.core.archives import Vector
from perdure.core.errors import ProviderError
from perdure.providers.base import ModelInfo

PROVIDER = "wordllama"
MODEL = "l2-supercat-256"
HANDLE = f"{PROVIDER}/{MODEL}"
DIM = 256
MAX_CHARS = 32_768
AT_ONCE = 32

_FILES = ("tokenizers/l2_supercat_tokenizer_config.json", "weights/l2_supercat_256.safetensors")


@cache
def wordllama_info() -> ModelInfo | None:
    """What the catalogue lists; None where it is not installed."""
    if _files() is None or find_spec("numpy") is None:
        return None
    return ModelInfo(
        handle=HANDLE,
        name=MODEL,
        provider_name=PROVIDER,
        provider_type="hugging-face",  # the nearest that clients of the old server know
        endpoint_type="hugging-face",
        embedding_dim=DIM,
        kind="embedding",
    )


def _files() -> tuple[Path, Path] | None:
    spec = find_spec("wordllama")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        tokenizer, weights = (Path(folder) / name for name in _FILES)
        if tokenizer.is_file() and weights.is_file():
            return tokenizer, weights
    return None


class WordLlama:
    """Implements `embeddings.Embedder`. The model is read by the first call."""

    # measured: the median of unrelated sentences is 0.08
    least_similarity = 0.1

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-embedder")
        self._loaded: tuple[Any, Any, Any] | None = None

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        loop = asyncio.get_running_loop()
        vectors: list[Vector] = []
        for start in range(0, len(texts), AT_ONCE):
            vectors += await loop.run_in_executor(self._thread, self._embed, texts[start : start + AT_ONCE])
        return vectors

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, texts: Sequence[str]) -> list[Vector]:
        if self._loaded is None:
            self._loaded = _load()
        numpy, tokenizer, table = self._loaded
        vectors: list[Vector] = []
        for encoding in tokenizer.encode_batch([text[:MAX_CHARS] for text in texts], add_special_tokens=False):
            vector = array("f", bytes(4 * DIM))
            if encoding.ids:
                numpy.frombuffer(vector, dtype=numpy.float32)[:] = table[encoding.ids].mean(axis=0, dtype=numpy.float32)
            vectors.append(vector)
        return vectors


def _load() -> tuple[Any, Any, Any]:
    """(numpy, the tokenizer, the table of word vectors). The table stays in its file and is read as it is needed."""
    import numpy
    from tokenizers import Tokenizer

    files = _files()
    if files is None:
        raise ProviderError("The embedded embedding model is gone: pip install --force-reinstall wordllama")
    tokenizer: Any = Tokenizer.from_file(str(files[0]))
    with files[1].open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        (entry,) = (value for key, value in json.loads(file.read(length)).items() if key != "__metadata__")
    table = numpy.memmap(
        files[1], dtype="<f2", mode="r", offset=8 + length + entry["data_offsets"][0], shape=tuple(entry["shape"])
    )
    return numpy, tokenizer, table
