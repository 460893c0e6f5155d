"""Whether a step ends its run, and what the model is told before it goes on if it does not."""

from collections.abc import Iterable
from typing import Any

from perdure.core.effects import ToolOutcome
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.model import ModelDone
from perdure.core.runs import StopReason
from perdure.loop import rules
from perdure.loop.turn import Turn

UNREADABLE = (
    "A tool call in your last answer could not be read: {why}. What you wrote: {text}\n"
    "Write the call again, as valid JSON."
)
STILL_TO_CALL = "Before you end your turn you must call: {names}."


def ending(
    turn: Turn, done: ModelDone, outcome: ToolOutcome | None, *, broken: bool = False
) -> tuple[StopReason | None, str | None]:
    """(the stop reason, what the model is told). No reason: the loop goes on."""
    last = turn.step_count + 1 >= turn.run.config.max_steps
    unread = unreadable(done)
    if outcome is not None:
        stop, told = after_calls(turn, outcome, broken=broken)
        told = "\n\n".join(note for note in (unread, told) if note) or None
        return stop or ("max_steps" if last else None), told
    told = unread or still_to_call(turn)
    if done.finish == "length":
        return "max_tokens_exceeded", told
    if told is not None:
        return "max_steps" if last else None, told
    return "end_turn", None


def after_calls(turn: Turn, outcome: ToolOutcome, *, broken: bool = False) -> tuple[StopReason | None, str | None]:
    """What the calls themselves mean. A tool that ends the run does so once nothing is left that has to be called before."""
    if broken:
        return "invalid_tool_call", None
    ran = [answer.name for answer in outcome.returns if answer.ran]
    if not any(rules.is_terminal(turn.agent.tool_rules, name) for name in ran):
        return None, None
    told = still_to_call(turn, ran)
    return (None, told) if told is not None else ("tool_rule", None)


def still_to_call(turn: Turn, ran: Iterable[str] = ()) -> str | None:
    """`ran`: tools called in this step."""
    called = [*turn.called, *((name, "") for name in ran)]
    missing = rules.missing_before_exit(turn.agent.tool_rules, turn.specs, called)
    return STILL_TO_CALL.format(names=", ".join(missing)) if missing else None


def unreadable(done: ModelDone) -> str | None:
    return "\n\n".join(UNREADABLE.format(why=why, text=text) for text, why in done.unparsed) or None


def note(text: str, **of: Any) -> Message:
    """A message to the model alone, in the user's place. `of`: the ids of what it belongs to."""
    return Message(id=new_id("message"), role="user", created_us=now_us(), content=(TextPart(text),), hidden=True, **of)
