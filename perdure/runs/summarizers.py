"""Who writes the summary of a conversation: the model its settings name, the provider's small one, or the agent's own."""

import logging

from perdure.core.agents import CompactionMode, CompactionSettings, ModelSettings
from perdure.core.errors import AgentError
from perdure.loop.summarise import SELF_MODES, Summarizer
from perdure.loop.turn import Turn
from perdure.providers.registry import Registry

log = logging.getLogger(__name__)


async def summarizers(
    registry: Registry, turn: Turn, settings: CompactionSettings, mode: CompactionMode
) -> list[Summarizer]:
    """The first choice first; the agent's own model is always the last, and in the self_compact modes the only one."""
    own = _own(turn, settings if settings.model in (None, turn.model_handle) else CompactionSettings())
    if mode in SELF_MODES:
        return [own]
    handle = settings.model or await registry.small_model(turn.model_handle)
    if handle is None or handle == turn.model_handle:
        return [own]
    try:
        resolved = await registry.resolve(handle, settings=settings.model_settings)
    except AgentError as error:
        log.warning("run %s: summarizer %s cannot be used: %s", turn.run.id, handle, error.message)
        return [own]
    other = Summarizer(
        model=resolved.model,
        handle=handle,
        name=resolved.name,
        provider_name=resolved.provider_name,
        endpoint=resolved.endpoint,
        settings=settings.model_settings or ModelSettings(),
        window=resolved.info.context_window if resolved.info is not None else None,
        own=False,
    )
    return [other, own]


def _own(turn: Turn, settings: CompactionSettings) -> Summarizer:
    return Summarizer(
        model=turn.at_once or turn.model,
        handle=turn.model_handle,
        name=turn.model_name,
        provider_name=turn.provider_name,
        endpoint=turn.endpoint,
        settings=settings.model_settings or turn.agent.model_settings,
        window=turn.window,
        own=True,
    )
