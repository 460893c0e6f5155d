"""What is kept of an answer that broke off: as much of it as was shown, marked, and without the calls it did not finish.

Invariant: the stored message has the shown text under the ids and part numbers it was shown by.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from perdure.core.events import Event, ReasoningDelta, TextDelta
from perdure.core.messages import Interruption, Message, Part, ReasoningPart, TextPart
from perdure.core.model import ModelDone
from perdure.core.runs import Run, Step


class CutOff(Struct, frozen=True, kw_only=True):
    """A model call that was called off. `done`: what it had come to, where there is a token record of it."""

    step: Step
    message_id: str
    done: ModelDone | None = None


def kept_answer(cut: CutOff, shown: Iterable[Event], run: Run, model: str) -> Message | None:
    """The message to store for a cancelled call; None: nothing of it is known. One with a token record is stored in any case."""
    content = shown_parts(shown, cut.message_id) if cut.done is None else cut.done.content
    if not content and cut.done is None:
        return None
    return Message(
        id=cut.message_id,
        role="assistant",
        created_us=cut.step.created_us,
        content=content,
        agent_id=run.agent_id,
        conversation_id=run.conversation_id,
        run_id=run.id,
        step_id=cut.step.id,
        model=model,
        hidden=not content,
        interrupted="cancelled",
    )


def abandoned_answer(shown: Sequence[Event], stored: Iterable[str], run: Run, mark: Interruption) -> Message | None:
    """The answer that a lost worker had begun to show, if it had. `stored`: the ids of the run's stored messages."""
    last = next((event for event in reversed(shown) if isinstance(event, TextDelta | ReasoningDelta)), None)
    if last is None or last.message_id in stored:
        return None
    return Message(
        id=last.message_id,
        role="assistant",
        created_us=last.at_us,
        content=shown_parts(shown, last.message_id),
        agent_id=run.agent_id,
        conversation_id=run.conversation_id,
        run_id=run.id,
        step_id=last.step_id,
        interrupted=mark,
    )


def shown_parts(events: Iterable[Event], message_id: str) -> tuple[Part, ...]:
    """The text and thinking of a message, put together from its deltas."""
    parts: dict[int, TextPart | ReasoningPart] = {}
    for event in events:
        if not isinstance(event, TextDelta | ReasoningDelta) or event.message_id != message_id:
            continue
        held = parts.get(event.part)
        if held is not None:
            parts[event.part] = msgspec.structs.replace(held, text=held.text + event.text)
        elif isinstance(event, TextDelta):
            parts[event.part] = TextPart(event.text)
        else:
            parts[event.part] = ReasoningPart(event.text, event.native)
    return tuple(parts[at] for at in sorted(parts))
