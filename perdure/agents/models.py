"""Which model an agent runs on, and the facts about it that are kept with the agent."""

from typing import Any

from msgspec import Struct

from perdure.core.agents import CompactionSettings
from perdure.core.errors import Invalid, NotFound
from perdure.providers.registry import Registry, Resolved

FALLBACK_CONTEXT_WINDOW = 32_768


class ChosenModel(Struct, frozen=True):
    """`facts` (provider_name, endpoint_type, endpoint) let an agent be shown without asking its provider. `assumed_window` is
    among them where nobody said how long a context the model takes: then nothing is decided by it."""

    handle: str
    context_window: int
    facts: dict[str, Any]


async def choose_model(
    registry: Registry, handle: str | None, *, default: str | None, context_window_limit: int | None
) -> ChosenModel:
    """NotFound for a handle nobody serves; Invalid without any handle, or for a limit beyond the model's own window."""
    if handle is None:
        handle = default or await _only_model(registry)
    resolved = await registry.resolve(handle)
    info = resolved.info
    largest = info.context_window if info is not None else None
    if context_window_limit is not None and largest is not None and context_window_limit > largest:
        raise Invalid(
            f"context_window_limit: {context_window_limit} is more than the {largest} tokens {handle} can take. Lower it."
        )
    facts = _facts(resolved)
    if context_window_limit is None and largest is None:
        facts["assumed_window"] = True
    return ChosenModel(handle, context_window_limit or largest or FALLBACK_CONTEXT_WINDOW, facts)


async def check_summarizer(registry: Registry, settings: CompactionSettings | None) -> None:
    """NotFound that names the field for a summarizer nobody serves."""
    if settings is None or settings.model is None:
        return
    try:
        await registry.resolve(settings.model)
    except NotFound as error:
        raise NotFound(f"compaction_settings.model: {error.message}") from error


def _facts(resolved: Resolved) -> dict[str, Any]:
    endpoint_type = resolved.info.endpoint_type if resolved.info is not None else "openai"
    return {"provider_name": resolved.provider_name, "endpoint_type": endpoint_type, "endpoint": resolved.endpoint}


async def _only_model(registry: Registry) -> str:
    """The model to take when there is no choice."""
    offered = [info.handle for info in await registry.models() if info.kind == "llm"]
    if len(offered) == 1:
        return offered[0]
    examples = f" Some that are served: {', '.join(offered[:5])}." if offered else ""
    raise Invalid(
        "model: an agent needs a model. Give its handle, such as openai/gpt-4.1, or set PERDURE_MODEL for a default."
        + examples
    )
