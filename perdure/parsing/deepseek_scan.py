"""The frame DeepSeek puts around all calls of an answer.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>…<｜tool▁call▁end｜>⏎<｜tool▁call▁begin｜>…<｜tool▁call▁end｜><｜tool▁calls▁end｜>

Invariant: the frame and the blanks in it are no text; a frame without a call in it is a call that cannot be read.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from perdure.parsing.markers import Piece

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"


class DeepSeekScanner:
    """Implements `calls.Scanner`."""

    def __init__(self) -> None:
        self._state: Literal["text", "begun", "call", "between"] = "text"
        self._held: list[Piece] = []

    def feed(self, pieces: Sequence[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            found.extend(self._one(piece))
        return found

    def finish(self) -> list[Piece]:
        return list(self._give_up())

    def _one(self, piece: Piece) -> Iterator[Piece]:
        if piece.mark == "tool_open":
            yield from self._frame()
            self._state = "call"
            yield piece
        elif piece.mark == "inner" and piece.text == _BEGIN and self._state != "call":
            yield from self._give_up()
            self._state = "begun"
            self._held.append(piece)
        elif piece.mark == "inner" and piece.text == _END and self._state != "text":
            if self._state == "begun":
                yield from self._give_up()
            yield from self._frame()
            yield piece._replace(mark="frame" if self._state == "between" else "tool_close")
            self._state = "text"
        elif piece.mark == "tool_close" and self._state == "call":
            self._state = "between"
            yield piece
        elif self._state in ("begun", "between") and piece.mark is None and not piece.text.strip():
            self._held.append(piece)
        else:
            if self._state != "call":
                yield from self._give_up()
            yield piece

    def _frame(self) -> Iterator[Piece]:
        for held in self._held:
            yield held._replace(mark="frame")
        self._held.clear()

    def _give_up(self) -> Iterator[Piece]:
        """No call follows: what began the frame opens a call that will not be read; after calls, blanks are text."""
        held, self._held = self._held, []
        if self._state == "begun":
            self._state = "call"
            yield held[0]._replace(mark="tool_open")
            held = held[1:]
        elif self._state == "between":
            self._state = "text"
        yield from held
