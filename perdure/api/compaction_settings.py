"""Compaction settings between the wire and our values, both ways; what was left out comes back as what is done without it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from perdure.api.model_settings import model_settings
from perdure.core.agents import CompactionMode, CompactionSettings
from perdure.core.errors import Invalid

FIELD = "compaction_settings"
MOST_PINS = 200


class _Given(Struct, kw_only=True):
    mode: CompactionMode | None = None
    model: str | None = None
    model_settings: dict[str, Any] | None = None
    prompt: str | None = None
    prompt_acknowledgement: bool | None = None
    clip_chars: int | None = 50_000
    sliding_window_percentage: float | None = None
    train_summaries: bool | None = None
    pinned_message_ids: list[str] | None = None


def compaction_settings(value: Mapping[str, Any] | None, *, field: str = FIELD) -> CompactionSettings | None:
    """Invalid (422) names the setting that is wrong. Null leaves a setting at its default, but `clip_chars` without a limit."""
    if value is None:
        return None
    try:
        given = msgspec.convert(dict(value), _Given)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        raise Invalid(
            f"{field}.{place.rstrip('`')}: {reason}" if place else f"{field}: {reason}", status=422
        ) from error
    share = given.sliding_window_percentage
    if share is not None and not 0 < share <= 1:
        raise Invalid(f"{field}.sliding_window_percentage: must be a number in (0, 1], not {share}", status=422)
    if given.clip_chars is not None and given.clip_chars < 1:
        raise Invalid(f"{field}.clip_chars: must be a whole number of at least 1, or null", status=422)
    if given.prompt is not None and not given.prompt.strip():
        raise Invalid(f"{field}.prompt: is empty; leave it out for the default prompt", status=422)
    values = {name: said for name in _Given.__struct_fields__ if (said := getattr(given, name)) is not None}
    values["clip_chars"] = given.clip_chars
    if given.pinned_message_ids is not None:
        values["pinned_message_ids"] = _pins(given.pinned_message_ids, f"{field}.pinned_message_ids")
    if given.model_settings is not None:
        values["model_settings"] = model_settings(given.model_settings, field=f"{field}.model_settings")
    return CompactionSettings(**values)


def _pins(ids: list[str], field: str) -> tuple[str, ...]:
    if len(ids) > MOST_PINS:
        raise Invalid(f"{field}: at most {MOST_PINS} messages can be pinned, not {len(ids)}", status=422)
    for at, message_id in enumerate(ids):
        if not message_id.startswith("message-"):
            raise Invalid(f"{field}[{at}]: {message_id!r} is not the id of a message (message-...)", status=422)
    return tuple(dict.fromkeys(ids))


def shown_compaction(settings: CompactionSettings | None) -> dict[str, Any] | None:
    if settings is None:
        return None
    shown = msgspec.structs.asdict(settings)
    nested = settings.model_settings
    shown["model_settings"] = nested.raw if nested is not None else None
    return shown
