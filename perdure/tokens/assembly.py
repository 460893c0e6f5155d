"""Building a prompt out of template text and message text.

Invariant: text between two control tokens is encoded in one piece, as the model's own tokenizer does with a rendered
template, and only template text can yield control ids.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from perdure.core.tokens import Span, Synthesized
from perdure.tokens.base import Rendered, Tokenizer
from perdure.tokens.utterances import SCAFFOLD


class _Run(NamedTuple):
    text: str
    message_id: str
    owner: int
    is_content: bool


class Assembly:
    """Collects ids and the spans that cover them. `opens`: the prompt starts here."""

    def __init__(self, tokenizer: Tokenizer, *, opens: bool) -> None:
        self._tokenizer = tokenizer
        self._opens = opens
        self._runs: list[_Run] = []
        self._ids: list[int] = []
        self._spans: list[tuple[int, str, int, bool]] = []
        self._synthesized: list[Synthesized] = []

    def template(
        self, text: str, message_id: str = "", owner: int = SCAFFOLD, *, restore: Callable[[str], str] = str
    ) -> None:
        """The template's own text around the message `message_id`. `restore` is applied to what stands between control tokens."""
        for piece in self._tokenizer.split(text):
            if isinstance(piece, str):
                self._runs.append(_Run(restore(piece), message_id, owner, False))
            else:
                self._flush()
                self._add([piece], message_id, owner, False)

    def content(self, text: str, message_id: str, owner: int) -> None:
        """A message's own text; nothing in it can become a control token."""
        if text:
            self._runs.append(_Run(text, message_id, owner, True))

    def detail(self, text: str, message_id: str, owner: int) -> None:
        """What the template writes of a message beside its text (a tool's name, a call's id): no control token either."""
        if text:
            self._runs.append(_Run(text, message_id, owner, False))

    def synthesize(self, text: str, why: str) -> None:
        """Template text that stands for what the model did not write."""
        self._flush()
        at = len(self._ids)
        self.template(text)
        self._flush()
        self._synthesized.append(Synthesized(at, len(self._ids) - at, why))

    def done(self, *, reasoning_open: bool = False) -> Rendered:
        self._flush()
        return Rendered(
            ids=self._ids,
            spans=tuple(Span(*span) for span in self._spans),
            synthesized=tuple(self._synthesized),
            reasoning_open=reasoning_open,
        )

    def _add(self, ids: list[int], message_id: str, owner: int, is_content: bool) -> None:
        if not ids:
            return
        self._ids.extend(ids)
        if self._spans and self._spans[-1][1:] == (message_id, owner, is_content):
            length, *_ = self._spans[-1]
            self._spans[-1] = (length + len(ids), message_id, owner, is_content)
        else:
            self._spans.append((len(ids), message_id, owner, is_content))

    def _flush(self) -> None:
        if not self._runs:
            return
        runs, self._runs = self._runs, []
        opens = self._opens and not self._ids
        ids, offsets = self._tokenizer.encode_offsets("".join(run.text for run in runs), opens=opens)
        begin = end = 0
        for at, run in enumerate(runs):
            end += len(run.text)
            # an id that stands for characters of two runs belongs to the content, else to the run it begins in
            stop = bisect_left(offsets, end, begin, key=lambda offset: offset[0])
            next_is_content = at + 1 < len(runs) and runs[at + 1].is_content
            if not run.is_content and next_is_content:
                while stop > begin and offsets[stop - 1][1] > end:
                    stop -= 1
            if at + 1 == len(runs):
                stop = len(ids)
            self._add(ids[begin:stop], run.message_id, run.owner, run.is_content)
            begin = stop
