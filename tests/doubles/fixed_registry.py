"""A model registry that knows what it is told, for tests that create agents but never call a model."""

from perdure.core.agents import ModelSettings
from perdure.core.errors import NotFound
from perdure.providers.base import ModelInfo
from perdure.providers.registry import Registry, Resolved


def info(handle: str, context_window: int | None = 8192, kind: str = "llm") -> ModelInfo:
    provider, _, name = handle.partition("/")
    return ModelInfo(
        handle=handle,
        name=name,
        provider_name=provider,
        provider_type="openai",
        endpoint_type="openai",
        endpoint="http://models.test/v1",
        context_window=context_window,
        kind=kind,  # type: ignore[arg-type]
    )


class FixedRegistry(Registry):
    """Serves exactly these models."""

    def __init__(self, *models: ModelInfo) -> None:
        self.errors = {}
        self.changes = 0
        self.look_again = None
        self._providers = {}
        self._models = {model.handle: model for model in models}

    async def resolve(
        self, handle: str, *, settings: ModelSettings | None = None, require_exact: bool = False
    ) -> Resolved:
        found = self._models.get(handle)
        if found is None:
            raise NotFound(f"No model {handle}")
        return Resolved(None, found.name, found.provider_name, found.endpoint, found)  # type: ignore[arg-type]

    async def small_model(self, handle: str) -> str | None:
        return None

    async def models(self) -> list[ModelInfo]:
        return list(self._models.values())

    async def close(self) -> None:
        return None
