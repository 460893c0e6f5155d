"""The seam between an answer and the formats its tool calls come in.

Invariant: a reader gives out the arguments as JSON text, in pieces that depend on nothing but the characters fed, and decides
once, on the whole text, whether the call is good.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from perdure.parsing.markers import Piece

Event = tuple[Literal["name", "arguments"], str]
Schemas = Mapping[str, Mapping[str, Any]]
"""Each tool's JSON schema of its parameters, by the tool's name."""


class CallReader(Protocol):
    """Reads what stands between a call's markers. `text` is all that was fed.

    `in_string`: the text ends inside a value, so that a marker there may be part of it. `complete`: nothing more can belong
    to the call. `broken`: no call can begin like this. `call_id`: the model's own, where it writes one.
    `waits`: the call is given out only when it is whole, since its id comes last.
    """

    text: str
    call_id: str | None

    @property
    def waits(self) -> bool: ...

    @property
    def broken(self) -> bool: ...

    @property
    def complete(self) -> bool: ...

    @property
    def in_string(self) -> bool: ...

    def feed(self, text: str) -> list[Event]:
        """The name once it is known, then pieces of the arguments."""
        ...

    def result(self) -> tuple[str, str] | str:
        """(name, arguments) of the whole text, or what is wrong with it. A call without arguments has `{}`."""
        ...


class Scanner(Protocol):
    """Turns a family's own markers into those every answer is read by: thinking, calls, and frames that are no text.

    Its pieces, joined, are those it was fed.
    """

    def feed(self, pieces: Sequence[Piece]) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...


class Plain:
    """For formats whose markers need no turning."""

    def feed(self, pieces: Sequence[Piece]) -> list[Piece]:
        return list(pieces)

    def finish(self) -> list[Piece]:
        return []
