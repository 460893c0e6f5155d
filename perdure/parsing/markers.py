"""Sampled ids as text and the markers between it.

Invariant: the pieces, markers written out, are the decoded text of the ids, wherever the input was cut. A marker that is one
token of the model is only that id; one that the model has no token for is found in the text.
"""

import codecs
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from perdure.core.dialect import Mark, OutputDialect


class TokenBytes(Protocol):
    def token_bytes(self, token_id: int) -> bytes: ...


class Piece(NamedTuple):
    """Text, or a marker and its `text`. `at`: the character of the decoded answer it starts at.

    `spelt`: a marker found in the text, which a model may also just be writing about.
    """

    text: str
    at: int
    mark: Mark | None = None
    spelt: bool = False


class MarkerReader:
    """`length` [chars] grows with what was fed. `ends[i]`: the length after id i (an incomplete character counts with the id
    that completes it)."""

    def __init__(self, dialect: OutputDialect, tokenizer: TokenBytes) -> None:
        texts = dialect.marks()
        self._by_id: dict[int, tuple[str, Mark]] = {
            dialect.marker_ids[text]: (text, mark) for text, mark in texts.items() if text in dialect.marker_ids
        }
        self._by_text: dict[str, Mark] = {text: mark for text, mark in texts.items() if text not in dialect.marker_ids}
        longest_first = sorted(self._by_text, key=len, reverse=True)
        self._marker = re.compile("|".join(map(re.escape, longest_first)))
        self._reach = max(map(len, longest_first), default=1) - 1
        self._firsts = {marker[0] for marker in longest_first}
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.length = 0
        self.ends: array[int] = array("i")

    def feed(self, ids: Sequence[int]) -> list[Piece]:
        pieces: list[Piece] = []
        run: list[str] = []
        for token_id in ids:
            marker = self._by_id.get(token_id)
            if marker is None:
                text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
                if text:
                    run.append(text)
                    self.length += len(text)
            else:
                run.append(self._flush_bytes())
                pieces.extend(self._scan("".join(run), final=True))
                run.clear()
                pieces.append(Piece(marker[0], self.length, marker[1]))
                self.length += len(marker[0])
            self.ends.append(self.length)
        if run:
            pieces.extend(self._scan("".join(run), final=False))
        return pieces

    def feed_text(self, text: str) -> list[Piece]:
        """The same for an engine that gives text alone; its dialect has no marker ids."""
        self.length += len(text)
        return list(self._scan(text, final=False))

    def finish(self) -> list[Piece]:
        return list(self._scan(self._flush_bytes(), final=True))

    def index_at(self, char: int) -> int:
        """How many ids it takes to write all that stands before this character."""
        return min(bisect_left(self.ends, char) + 1, len(self.ends)) if char else 0

    def _flush_bytes(self) -> str:
        left = self._decoder.decode(b"", True)
        if left:
            self.length += len(left)
            self.ends[-1] = self.length
        return left

    def _scan(self, new: str, *, final: bool) -> Iterator[Piece]:
        """Text markers cut out of the held text and `new`, which ends at `length`."""
        text = self._held + new
        self._held = ""
        if not self._by_text:
            if text:
                yield Piece(text, self.length - len(text))
            return
        base, start = self.length - len(text), 0
        for found in self._marker.finditer(text):
            at = found.start()
            if at > start:
                yield Piece(text[start:at], base + start)
            yield Piece(found[0], base + at, self._by_text[found[0]], True)
            start = found.end()
        stop = len(text) if final else len(text) - self._partial(text, start)
        if stop > start:
            yield Piece(text[start:stop], base + start)
        self._held = text[stop:]

    def _partial(self, text: str, start: int) -> int:
        """How many characters at the end could be the beginning of a marker."""
        tail = text[max(start, len(text) - self._reach) :]
        if not any(first in tail for first in self._firsts):
            return 0
        longest = 0
        for marker in self._by_text:
            for size in range(min(len(marker) - 1, len(tail)), longest, -1):
                if tail.endswith(marker[:size]):
                    longest = size
                    break
        return longest
