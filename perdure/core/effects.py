"""What a step's tools came to: their answers, and the changes to be committed with the step."""

from typing import Any

from msgspec import Struct

from perdure.core.messages import ToolReturn


class ToolOutcome(Struct, frozen=True):
    """The answers to a step's calls, in call order, and the effects of them: memory edits, passages (`tools/base.py`)."""

    returns: tuple[ToolReturn, ...]
    effects: tuple[Any, ...] = ()
