"""Mistral's calls, in their older form (one JSON list) and their newer one (a name and arguments each).

    [TOOL_CALLS][{"name": "look", "arguments": {"at": "sky"}, "id": "aB3dE5gH7"}]
    [TOOL_CALLS]look[CALL_ID]aB3dE5gH7[ARGS]{"at": "sky"}[TOOL_CALLS]go[ARGS]{}

Invariant: a call ends where its JSON does, since nothing closes it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from perdure.parsing.json_end import JsonEnd
from perdure.parsing.markers import Piece

_BLANK = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s,]*")


class MistralScanner:
    """Implements `calls.Scanner`. A call of the list form opens with no text, one of the other with its `[TOOL_CALLS]`."""

    def __init__(self) -> None:
        self._state: Literal["text", "begun", "between", "entry", "name", "arguments", "broken"] = "text"
        self._held = ""
        self._at = 0
        self._end = JsonEnd()

    def feed(self, pieces: Sequence[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if piece.text == "[TOOL_CALLS]" and piece.mark == "inner":
                found.extend(self._rest())
                self._hold(piece)
                self._state = "begun"
            elif piece.mark == "inner" and self._state in ("begun", "name"):
                found.extend(self._rest())
                found.append(piece._replace(mark=None))
                if piece.text == "[ARGS]":
                    self._state, self._end = "arguments", JsonEnd()
            elif piece.mark in (None, "inner"):
                self._hold(piece)
                found.extend(self._scan())
            else:
                found.extend(self._rest())
                self._state = "text"
                found.append(piece)
        return found

    def finish(self) -> list[Piece]:
        return list(self._rest())

    def _hold(self, piece: Piece) -> None:
        if not self._held:
            self._at = piece.at
        self._held += piece.text

    def _rest(self) -> Iterator[Piece]:
        """What is held, at the end of a stretch."""
        if self._state == "begun":
            yield from self._name()
        yield from self._take(len(self._held), "frame" if self._state == "between" else None)

    def _take(self, size: int, mark: Literal["frame", "tool_open"] | None = None) -> Iterator[Piece]:
        if size:
            yield Piece(self._held[:size], self._at, mark)
            self._held, self._at = self._held[size:], self._at + size

    def _name(self) -> Iterator[Piece]:
        """It is no list: the call opens with its marker, and a name follows."""
        self._state = "name"
        yield from self._take(len("[TOOL_CALLS]"), "tool_open")

    def _scan(self) -> Iterator[Piece]:
        while self._held:
            before = (self._state, len(self._held))
            match self._state:
                case "begun":
                    yield from self._begun()
                case "between":
                    yield from self._between()
                case "name":
                    if "{" in self._held:
                        yield from self._take(self._held.index("{"))
                        self._state, self._end = "arguments", JsonEnd()
                    else:
                        yield from self._take(len(self._held))
                case "entry" | "arguments":
                    yield from self._value()
                case _:
                    yield from self._take(len(self._held))
            if before == (self._state, len(self._held)):
                return

    def _begun(self) -> Iterator[Piece]:
        start = _BLANK.match(self._held, len("[TOOL_CALLS]")).end()  # type: ignore[union-attr]
        if start == len(self._held):
            return
        if self._held[start] in "[{":
            yield from self._take(start + (self._held[start] == "["), "frame")
            self._state = "between"
        else:
            yield from self._name()

    def _between(self) -> Iterator[Piece]:
        yield from self._take(_BETWEEN.match(self._held).end(), "frame")  # type: ignore[union-attr]
        if not self._held:
            return
        if self._held[0] == "]":
            yield from self._take(1, "frame")
            self._state = "text"
            return
        yield Piece("", self._at, "tool_open")
        self._state = "entry" if self._held[0] == "{" else "broken"
        self._end = JsonEnd()

    def _value(self) -> Iterator[Piece]:
        if not self._end.depth and self._held.lstrip()[:1] not in ("", "{", "["):
            self._state = "broken"  # not JSON: all of it is the call's, up to the next
            return
        end = self._end.feed(self._held)
        yield from self._take(len(self._held) if end < 0 else end)
        if end >= 0:
            yield Piece("", self._at, "tool_close")
            self._state = "between" if self._state == "entry" else "text"
