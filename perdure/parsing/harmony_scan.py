"""gpt-oss's messages: an answer is several, each with a header that says what its body is.

    <|channel|>analysis<|message|>…<|end|>                                                     thinking
    <|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{…}<|call|>     a call
    <|start|>assistant<|channel|>final<|message|>…                                              text

Invariant: headers and endings are frames; a body is thinking, a call or text by its header alone.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from perdure.core.dialect import Mark
from perdure.parsing.markers import Piece

_ENDS = ("<|end|>", "<|call|>", "<|start|>")
_CLOSING: dict[str, Mark] = {"thought": "reasoning_close", "call": "tool_close"}


class HarmonyScanner:
    """Implements `calls.Scanner`. The prompt ends with `<|start|>assistant`: the answer begins inside a header."""

    def __init__(self) -> None:
        self._state: Literal["first", "header", "thought", "call", "text"] = "first"
        self._header: list[Piece] = []

    def feed(self, pieces: Sequence[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            found.extend(self._one(piece))
        return found

    def finish(self) -> list[Piece]:
        return list(self._no_header())

    def _one(self, piece: Piece) -> Iterator[Piece]:
        if self._state in ("first", "header"):
            yield from self._in_header(piece)
        elif piece.mark == "inner" and piece.text in _ENDS:
            yield from self._end(piece)
        else:
            yield piece._replace(mark=None)

    def _in_header(self, piece: Piece) -> Iterator[Piece]:
        if piece.mark == "inner" and piece.text == "<|message|>":
            self._header.append(piece)
            yield self._body()
            return
        if piece.mark == "inner" and piece.text in _ENDS:
            yield from self._no_header()
            yield from self._end(piece)
            return
        self._header.append(piece)
        if self._state == "first":
            text = "".join(each.text for each in self._header).lstrip()
            if not ("<|channel|>".startswith(text[:11]) or "to=".startswith(text[:3])):
                yield from self._no_header()  # an answer without any header

    def _body(self) -> Piece:
        text = "".join(piece.text for piece in self._header)
        at = self._header[0].at
        self._header.clear()
        channel = text.partition("<|channel|>")[2].split("<|", 1)[0].split()
        if " to=" in f" {text}".replace("<|", " <|"):
            self._state = "call"
            return Piece(text, at, "tool_open")
        if channel[:1] == ["analysis"]:
            self._state = "thought"
            return Piece(text, at, "reasoning_open")
        self._state = "text"
        return Piece(text, at, "frame")

    def _end(self, piece: Piece) -> Iterator[Piece]:
        closing = _CLOSING.get(self._state, "frame")
        self._state = "header"
        if piece.text == "<|start|>":
            yield Piece("", piece.at, closing)
            self._header.append(piece)
        else:
            yield piece._replace(mark=closing)

    def _no_header(self) -> Iterator[Piece]:
        """What looked like a header is none: it is text."""
        held, self._header = self._header, []
        if self._state in ("first", "header"):
            self._state = "text"
        for piece in held:
            yield piece._replace(mark=None)
