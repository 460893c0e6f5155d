"""Which messages a compaction has to leave alone: only ones the agent has, so that a pin that means nothing is noticed."""

from collections.abc import Mapping

import msgspec

from perdure.core.agents import CompactionSettings
from perdure.core.errors import Invalid
from perdure.store.base import Tx
from perdure.store.messages import message_by_id

FIELD = "compaction_settings.pinned_message_ids"


def check_pins(
    agent_id: str, settings: CompactionSettings | None, *, before: CompactionSettings | None = None
) -> Tx[None]:
    """Invalid (422) for a message of somebody else, or one that no compaction takes away or leaves. `before`: pins that stand."""
    had = set(before.pinned_message_ids if before is not None else ())
    for message_id in settings.pinned_message_ids if settings is not None else ():
        if message_id in had:
            continue
        found = yield from message_by_id(message_id)
        if found is None or found[1].agent_id != agent_id:
            raise Invalid(
                f"{FIELD}: {message_id} is not a message of agent {agent_id}. Pin one that it has.", status=422
            )
        if found[1].role == "summary":
            raise Invalid(
                f"{FIELD}: {message_id} is a summary, which the next summary takes up. Pin what was said instead.",
                status=422,
            )


def no_pins(settings: CompactionSettings | None) -> None:
    """Invalid (422) for pins of an agent that is being made."""
    if settings is not None and settings.pinned_message_ids:
        raise Invalid(f"{FIELD}: a new agent has no messages to pin yet. Pin them with an update.", status=422)


def with_pins(settings: CompactionSettings | None, ids: Mapping[str, str]) -> CompactionSettings | None:
    """The settings with their pins under other ids; what has none is not pinned any more."""
    if settings is None or not settings.pinned_message_ids:
        return settings
    pins = tuple(ids[pin] for pin in settings.pinned_message_ids if pin in ids)
    return msgspec.structs.replace(settings, pinned_message_ids=pins)
