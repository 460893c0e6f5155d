"""Servers that load models themselves: the window a model is loaded with, as each tells it at its own address."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from perdure.providers.http import Http
from perdure.providers.registry import ProviderConfig, ProviderOptions, Registry
from tests.doubles.telling import Telling

MADE_FOR = {"model_info": {"llama.context_length": 131_072, "llama.embedding_length": 4096}}
TO_BE_LOADED = {**MADE_FOR, "parameters": "stop x\nnum_ctx                        16384"}


@pytest.fixture
def telling() -> Iterator[Callable[..., Telling]]:
    made: list[Telling] = []

    def make(*models: str, **told: Any) -> Telling:
        made.append(Telling(models, {path.replace("_", "/"): value for path, value in told.items()}))
        return made[-1]

    yield make
    for double in made:
        double.close()


async def listed(http: Http, kind: str, double: Telling, **options: Any) -> dict[str, tuple[int | None, str, Any]]:
    config = ProviderConfig(name=kind, kind=kind, base_url=double.base_url, options=ProviderOptions(**options))
    found = await Registry([config], env={}, http=http).list_models()
    return {info.name: (info.context_window, info.kind, info.embedding_dim) for info in found}


async def test_ollama(http: Http, telling: Callable[..., Telling]) -> None:
    shown = {
        "loaded:latest": TO_BE_LOADED,
        "set:latest": TO_BE_LOADED,
        "free:latest": MADE_FOR,
        "vectors:latest": {**MADE_FOR, "capabilities": ["embedding"]},
    }
    double = telling(
        *shown,
        _api_show=shown.get,
        _api_ps={"models": [{"name": "loaded:latest", "model": "loaded:latest", "context_length": 4096}]},
    )
    assert await listed(http, "ollama", double) == {
        "loaded:latest": (4096, "llm", None),  # what it runs with, whatever it could do
        "set:latest": (16_384, "llm", None),
        "free:latest": (131_072, "llm", None),
        "vectors:latest": (131_072, "embedding", 4096),
    }
    assert await listed(http, "ollama", double, context_window=9000) == dict.fromkeys(shown, (9000, "llm", None))


async def test_an_ollama_that_tells_nothing(http: Http, telling: Callable[..., Telling]) -> None:
    assert await listed(http, "ollama", telling("m:latest")) == {"m:latest": (None, "llm", None)}
    odd = telling("m:latest", _api_show=["?"], _api_ps={"models": {"m:latest": 1}})
    assert await listed(http, "ollama", odd) == {"m:latest": (None, "llm", None)}


async def test_lmstudio(http: Http, telling: Callable[..., Telling]) -> None:
    entries = [
        {
            "id": "loaded",
            "type": "llm",
            "state": "loaded",
            "max_context_length": 131_072,
            "loaded_context_length": 8192,
        },
        {"id": "resting", "type": "vlm", "state": "not-loaded", "max_context_length": 32_768},
        {"id": "vectors", "type": "embeddings", "state": "not-loaded", "max_context_length": 2048},
    ]
    double = telling("loaded", "resting", "vectors", "unheard", **{"_api_v0_models": {"data": entries}})
    assert await listed(http, "lmstudio", double) == {
        "loaded": (8192, "llm", None),
        "resting": (32_768, "llm", None),
        "vectors": (2048, "embedding", None),
        "unheard": (None, "llm", None),
    }


async def test_an_lmstudio_without_an_api_of_its_own(http: Http, telling: Callable[..., Telling]) -> None:
    assert await listed(http, "lmstudio", telling("m")) == {"m": (None, "llm", None)}
