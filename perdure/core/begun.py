"""A step whose answer is complete and whose calls are under way: what is known of it until it commits.

Invariant: it is kept before the first of its calls can have an effect, so whoever takes the run up after a crash knows which
calls may have taken effect, and asks the model for nothing it has answered already.
"""

from msgspec import Struct

from perdure.core.messages import Message, ToolCall, ToolReturn
from perdure.core.model import ModelDone
from perdure.core.runs import Step

UNKNOWN = (
    "Error: the server was interrupted while {name} ran, so whether it took effect is not known. It was not run again. Find out "
    "before you call it once more."
)
CANCELLED = "Error: {name} was ended because its run was cancelled. Whether it took effect is not known."
GIVEN_UP = "Error: {name} was interrupted, and its run was given up. Whether it took effect is not known."
NOT_RUN = "Error: {name} was not run: its run ended before."


class Begun(Struct, frozen=True, kw_only=True):
    """`message` and `done`: the model's answer; None where the calls are those of a step that had been parked, which is stored
    already. `returns`: call id -> what the call has returned so far."""

    step: Step
    message: Message | None = None
    done: ModelDone | None = None
    returns: dict[str, ToolReturn] = {}


def unknown(call: ToolCall, text: str = UNKNOWN) -> ToolReturn:
    """The answer to a call of which nobody knows whether it took effect."""
    return ToolReturn(call.id, call.name, "error", text.format(name=call.name), ran=False)
