"""A tool call of an older agent type, taken apart while its arguments arrive: thinking, speech, and the arguments proper.

Invariant: what comes out depends on the text alone, not on how it was cut; so a stream and the stored call show the same.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from perdure.parsing.partial_json import PartialJson, Run

Kind = Literal["thoughts", "speech", "arguments"]
Piece = tuple[Kind, str]


class SpokenCall:
    """`thoughts`: the member that holds thinking, None if none does. `speech`: the member that is said to the user, None for
    an ordinary call. What is neither are the arguments; of a call that speaks they are told only if it says nothing."""

    def __init__(self, thoughts: str | None, speech: str | None) -> None:
        self._json = PartialJson()
        self._thoughts = thoughts
        self._speech = speech
        self._spoke = False
        self._said = False
        self._unsaid = ""
        self._begun = False
        self._over = False
        self._rest = _WithoutMember(thoughts)

    def feed(self, text: str) -> list[Piece]:
        pieces = list(self._pieces(self._json.feed(text)))
        if self._json.done:
            pieces += self._closed()
        return joined(pieces)

    def finish(self) -> list[Piece]:
        """The end of the arguments, however far they came."""
        pieces = list(self._pieces(self._json.finish()))
        pieces += self._argued(self._rest.finish())
        return joined([*pieces, *self._closed()])

    def _closed(self) -> Iterator[Piece]:
        """Once nothing more can be said: a call that said nothing, not even an empty text, is an ordinary one."""
        if self._over:
            return
        self._over = True
        if self._speech is not None and not self._spoke:
            self._speech = None
            yield "arguments", self._unsaid
        elif not self._said:
            yield ("speech" if self._spoke else "arguments"), ""

    def _pieces(self, runs: list[Run]) -> Iterator[Piece]:
        for run in runs:
            if run.role == "key":
                self._begun = False
            elif run.role == "value" and run.member is not None:
                if run.member == self._thoughts and (text := self._words(run, run.member)):
                    yield "thoughts", text
                elif run.member == self._speech:
                    self._spoke = True
                    if text := self._words(run, run.member):
                        self._said = True
                        yield "speech", text
            yield from self._argued(self._rest.take(run))

    def _words(self, run: Run, member: str) -> str:
        """What a member's value says: a string's characters, or the source of anything else."""
        if run.path == (member,):
            return run.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        raw = run.raw if self._begun else run.raw.lstrip()
        self._begun = self._begun or bool(raw)
        return raw

    def _argued(self, text: str) -> Iterator[Piece]:
        if self._speech is not None:
            self._unsaid += text
        elif text:
            self._said = True
            yield "arguments", text


class _WithoutMember:
    """The source of an object less one of its members, and less the comma that went with it."""

    def __init__(self, member: str | None) -> None:
        self._member = member
        self._between = ""
        self._first = True

    def take(self, run: Run) -> str:
        if run.role == "around":
            self._between += run.raw
            return self.finish() if "}" in run.raw else ""
        if run.member is not None and run.member == self._member:
            if run.role == "key" and not self._first:
                self._between = ""
            elif run.role == "key":
                self._between = self._between.replace(",", "").rstrip()
            return ""
        before = self._between
        self._between = ""
        if run.role != "broken" and self._first:
            before = before.replace(",", "").rstrip() if "," in before else before
        self._first = False
        return before + run.raw

    def finish(self) -> str:
        held, self._between = self._between, ""
        self._first = False
        return held


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Adjacent pieces of a kind as one."""
    found: list[Piece] = []
    for kind, text in pieces:
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found
