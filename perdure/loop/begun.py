"""A step's calls, on record before they run; and what becomes of a step that was interrupted among them.

Invariant: whatever ends a step early, the history gets its answer whole and a return for each of its calls, or nothing of it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.begun import CANCELLED, GIVEN_UP, NOT_RUN, Begun, unknown
from perdure.core.effects import ToolOutcome
from perdure.core.events import Event
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, ToolCall, ToolReturn
from perdure.core.runs import RunConfig, Step, StopReason
from perdure.loop.shown import shown, speech_of
from perdure.loop.turn import Turn
from perdure.loop.verdicts import Verdicts
from perdure.tools.executor import acts_inside


async def run_calls(
    turn: Turn, begun: Begun, calls: tuple[ToolCall, ...], verdicts: Verdicts, given: Mapping[str, ToolReturn]
) -> ToolOutcome:
    """Run the calls of a step. `given`: answers that somebody else gave. AgentError: they could not be put on record.

    A step that an earlier worker was in the middle of has its `turn.interrupted`: its calls are not run again unawares.
    """
    keep, before = dict(given), turn.interrupted
    if before is not None and before.step.id == begun.step.id:
        keep |= turn.executor.recalled(calls, {**verdicts.refused, **keep}, before.returns)
        turn.interrupted = None
        turn.begun = before
    else:
        turn.begun = begun
        if turn.journal is not None and turn.executor.acts_outside(calls, {**verdicts.refused, **keep}):
            await turn.journal.begin(begun)
    return await turn.executor.execute(
        calls, refused=verdicts.refused, prefilled=verdicts.prefilled, step_id=begun.step.id, keep=keep
    )


class CutShort(Struct, frozen=True, kw_only=True):
    """A step that ends with its run, as it is to be stored and shown."""

    step: Step
    messages: tuple[Message, ...]
    events: tuple[Event, ...]


def cut_short(begun: Begun, stop: StopReason, config: RunConfig) -> CutShort:
    """The step of a run that ends before the calls of the step have. `begun.message` and `begun.done` are set."""
    message, done = begun.message, begun.done
    assert message is not None and done is not None
    tool = msgspec.structs.replace(
        message,
        id=new_id("message"),
        role="tool",
        created_us=now_us(),
        content=(),
        tool_calls=(),
        calls_at=None,
        model=None,
        hidden=False,
        tool_returns=closed_calls(begun, message.tool_calls, stop),
    )
    events: list[Event] = [] if config.stream_tokens else _events(message, config)
    return CutShort(
        step=msgspec.structs.replace(begun.step, usage=done.usage, stop_reason=stop, not_exact=done.not_exact),
        messages=(message, tool),
        events=(*events, *_events(tool, config)),
    )


def closed_calls(begun: Begun, calls: tuple[ToolCall, ...], stop: StopReason) -> tuple[ToolReturn, ...]:
    """A return for each call: its own, or why there is none. What acts within its step has not happened without it."""
    text = CANCELLED if stop == "cancelled" else GIVEN_UP
    return tuple(
        begun.returns.get(call.id) or unknown(call, NOT_RUN if acts_inside(call.name) else text) for call in calls
    )


def _events(message: Message, config: RunConfig) -> list[Event]:
    found: list[Any] = shown(message, speech_of(config))
    return found
