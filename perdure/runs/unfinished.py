"""What a run was in the middle of when it ended, as it is to be stored: nothing that was shown is lost, no call stays open.

Invariant: whichever way a run ends, its last messages are a history that the next prompt can be made of.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from perdure.core.approvals import INTERRUPTED, Pending, closing
from perdure.core.begun import Begun
from perdure.core.events import Event
from perdure.core.messages import Message
from perdure.core.model import ModelDone
from perdure.core.runs import Run, Step, StopReason
from perdure.loop.begun import cut_short
from perdure.loop.broken_off import kept_answer
from perdure.loop.shown import shown, speech_of
from perdure.loop.turn import Turn


class Unfinished(Struct, frozen=True, kw_only=True):
    """`step`: a step to be stored with it, of the model call `done` where that came to an end."""

    messages: tuple[Message, ...] = ()
    events: tuple[Event, ...] = ()
    step: Step | None = None
    done: ModelDone | None = None


def unfinished_step(
    run: Run, turn: Turn | None, begun: Begun | None, stop: StopReason, so_far: Iterable[Event]
) -> Unfinished:
    """`begun`: a step whose calls were under way. `so_far`: the run's events. Not for a parked step."""
    if begun is not None and begun.message is not None:
        cut = cut_short(begun, stop, run.config)
        return Unfinished(messages=cut.messages, events=cut.events, step=cut.step, done=begun.done)
    if turn is None or turn.cut_off is None or stop != "cancelled":
        return Unfinished()
    off = turn.cut_off
    answer = kept_answer(off, so_far, run, turn.model_handle)
    step = msgspec.structs.replace(off.step, status="cancelled", stop_reason=stop)
    if off.done is not None:
        step = msgspec.structs.replace(step, usage=off.done.usage, not_exact=off.done.not_exact)
    return Unfinished(messages=(answer,) if answer is not None else (), step=step, done=off.done)


def unanswered(pending: Pending, later: tuple[Message, ...], run: Run, begun: Begun | None, now: int) -> Unfinished:
    """Returns for the calls of a parked step that the run had to answer, told as any return is, and what was to follow them."""
    ends = closing(
        pending,
        INTERRUPTED,
        agent_id=run.agent_id,
        conversation_id=run.conversation_id,
        now=now,
        run_id=run.id,
        returns=begun.returns if begun is not None else {},
    )
    speech = speech_of(run.config)
    told = [event for message in ends for event in shown(message, speech)]
    return Unfinished(messages=(*ends, *later), events=tuple(told))
