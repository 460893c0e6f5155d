"""What window a model has on a server that loads models itself: llama.cpp, Ollama, LM Studio.

Invariant: what a model is loaded with now comes before what it will be loaded with, and that before the longest it was made
for. A server that does not tell leaves the list as it is.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from perdure.core.errors import ProviderError
from perdure.providers.base import ModelInfo

Ask = Callable[[str, Any], Awaitable[Any]]
"""(path below the server's root, JSON to post or None to get) -> the JSON it answers. ProviderError."""


async def with_slots(ask: Ask, found: list[ModelInfo]) -> list[ModelInfo]:
    """llama.cpp divides its context among its slots; `/props` tells what one of them has."""
    try:
        window = (await ask("/props", None))["default_generation_settings"]["n_ctx"]
    except (ProviderError, KeyError, TypeError):
        return found
    return [replace(info, context_window=window) for info in found]


async def of_ollama(ask: Ask, found: list[ModelInfo]) -> list[ModelInfo]:
    """`/api/ps` has the loaded models; `/api/show` what the others are made for. Longer prompts are cut without a word there."""
    running, *shown = await asyncio.gather(
        _object(ask, "/api/ps", None), *(_object(ask, "/api/show", {"model": info.name}) for info in found)
    )
    loaded = {str(each.get("model") or each.get("name")): each for each in _entries(running, "models")}
    return [_of_ollama(info, facts, loaded.get(info.name, {})) for info, facts in zip(found, shown, strict=True)]


async def of_lmstudio(ask: Ask, found: list[ModelInfo]) -> list[ModelInfo]:
    """`/api/v0/models` tells what `/v1/models` leaves out."""
    entries = _entries(await _object(ask, "/api/v0/models", None), "data")
    told = {str(entry.get("id")): entry for entry in entries}
    return [_of_lmstudio(info, told[info.name]) if info.name in told else info for info in found]


def _of_lmstudio(info: ModelInfo, entry: dict[str, Any]) -> ModelInfo:
    window = _size(entry.get("loaded_context_length")) or _size(entry.get("max_context_length"))
    kind = "embedding" if entry.get("type") == "embeddings" else info.kind
    return replace(info, context_window=window or info.context_window, kind=kind)


def _of_ollama(info: ModelInfo, shown: dict[str, Any], loaded: dict[str, Any]) -> ModelInfo:
    kind = "embedding" if "embedding" in (shown.get("capabilities") or ()) else info.kind
    window = _size(loaded.get("context_length")) or _num_ctx(shown) or _fact(shown, ".context_length")
    dim = _fact(shown, ".embedding_length") if kind == "embedding" else None
    return replace(
        info, context_window=window or info.context_window, kind=kind, embedding_dim=dim or info.embedding_dim
    )


def _num_ctx(shown: dict[str, Any]) -> int | None:
    """What its Modelfile says it is to be loaded with."""
    found = re.search(r"^num_ctx\s+(\d+)", str(shown.get("parameters") or ""), re.MULTILINE)
    return int(found[1]) if found else None


def _fact(shown: dict[str, Any], suffix: str) -> int | None:
    facts = shown.get("model_info")
    found = facts.items() if isinstance(facts, dict) else ()
    return next((value for key, value in found if key.endswith(suffix) and isinstance(value, int)), None)


async def _object(ask: Ask, path: str, body: Any) -> dict[str, Any]:
    """An empty one where the server has nothing to say: an older version, or another server under this name."""
    try:
        answer = await ask(path, body)
    except ProviderError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _entries(answer: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = answer.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
