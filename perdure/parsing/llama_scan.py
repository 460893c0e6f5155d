"""Llama 3's calls: bare JSON at the beginning of a line, or what follows `<|python_tag|>`, found in the text.

    {"name": "look", "parameters": {"at": "sky"}}; {"name": "go", "parameters": {}}
    <|python_tag|>brave_search.call(query="sky")

Invariant: JSON that is no call stays text: an object counts where it begins the answer with `"name"`, or names a known tool.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from perdure.core.syntax import parse_python
from perdure.parsing.calls import Event, Schemas
from perdure.parsing.json_calls import JsonReader
from perdure.parsing.json_end import JsonEnd
from perdure.parsing.markers import Piece

KEYS = ("parameters", "arguments")
_BLANK = re.compile(r"\s*")
_SEPARATOR = re.compile(r"\s*;?\s*")
_NAME_FIRST = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_OTHER_FIRST = re.compile(r'\{\s*"(?:type|function|id|parameters|arguments)"')
_NAME_ANYWHERE = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_CALL = re.compile(r"\s*([A-Za-z_][\w.-]*?)(?:\.call)?\s*\((.*)\)\s*\Z", re.DOTALL)

Verdict = Literal["yes", "no", "maybe"]


class LlamaScanner:
    """Implements `calls.Scanner`."""

    def __init__(self, schemas: Schemas) -> None:
        self._known = schemas
        self._state: Literal["text", "tag", "call", "code", "after"] = "text"
        self._held = ""
        self._at = 0
        self._is_start = True
        self._line_start = True
        self._end = JsonEnd()

    def feed(self, pieces: Sequence[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if piece.mark is None:
                if not self._held:
                    self._at = piece.at
                self._held += piece.text
                found.extend(self._scan(final=False))
                continue
            found.extend(self._scan(final=True))
            if piece.mark == "inner":
                found.append(piece._replace(mark="tool_open"))
                self._state = "tag"
            else:
                found.append(piece)
            self._at = piece.at + len(piece.text)
        return found

    def finish(self) -> list[Piece]:
        found = list(self._scan(final=True))
        if self._state == "code":
            found.append(Piece("", self._at, "tool_close"))
        return found

    def _take(self, size: int, mark: Literal["frame"] | None = None) -> Iterator[Piece]:
        if size:
            yield Piece(self._held[:size], self._at, mark)
            self._held, self._at = self._held[size:], self._at + size

    def _open(self) -> Piece:
        self._state, self._end = "call", JsonEnd()
        return Piece("", self._at, "tool_open")

    def _scan(self, *, final: bool) -> Iterator[Piece]:
        while self._held:
            before = (self._state, len(self._held))
            match self._state:
                case "text":
                    yield from self._text(final)
                case "tag":
                    start = _BLANK.match(self._held).end()  # type: ignore[union-attr]
                    if start < len(self._held):
                        self._state = "call" if self._held[start] == "{" else "code"
                        self._end = JsonEnd()
                    elif final:
                        yield from self._take(len(self._held))
                case "code":
                    yield from self._take(len(self._held))
                case "call":
                    yield from self._call()
                case "after":
                    yield from self._after(final)
            if before == (self._state, len(self._held)):
                return

    def _call(self) -> Iterator[Piece]:
        end = self._end.feed(self._held)
        yield from self._take(len(self._held) if end < 0 else end)
        if end >= 0:
            yield Piece("", self._at, "tool_close")
            self._state, self._is_start, self._line_start = "after", False, False

    def _after(self, final: bool) -> Iterator[Piece]:
        start = _SEPARATOR.match(self._held).end()  # type: ignore[union-attr]
        verdict = self._verdict(self._held[start:], final, loose=True)
        if verdict == "yes":
            yield from self._take(start, "frame")
            yield self._open()
        elif verdict == "no":
            self._state, self._line_start = "text", "\n" in self._held[:start]

    def _text(self, final: bool) -> Iterator[Piece]:
        if self._line_start:
            yield from self._take(_BLANK.match(self._held).end())  # type: ignore[union-attr]
            verdict = self._verdict(self._held, final, loose=self._is_start)
            if verdict == "yes":
                yield self._open()
                return
            if verdict == "maybe":
                return
            self._line_start = self._is_start = False
        end = self._held.find("\n")
        yield from self._take(len(self._held) if end < 0 else end + 1)
        self._line_start = end >= 0

    def _verdict(self, text: str, final: bool, *, loose: bool) -> Verdict:
        """Whether a call begins here. `loose`: where a call is expected, so that its name need not be known."""
        if not text:
            return "no" if final else "maybe"
        if text[0] != "{":
            return "no"
        if found := _NAME_FIRST.match(text):
            return "yes" if loose or self._knows(found[1]) else "no"
        if _OTHER_FIRST.match(text):
            end = JsonEnd().feed(text)
            if end < 0 and not final:
                return "maybe"
            named = _NAME_ANYWHERE.search(text, 0, len(text) if end < 0 else end)
            return "yes" if named and self._knows(named[1]) else "no"
        return "no" if final else _could_begin(text)

    def _knows(self, written: str) -> bool:
        try:
            return json.loads(written) in self._known
        except ValueError:
            return False


def _could_begin(text: str) -> Verdict:
    """Whether more text can make this one of the beginnings looked for."""
    rest = text[1:].lstrip()
    for key in ('"name"', '"type"', '"function"', '"id"', '"parameters"', '"arguments"'):
        if key.startswith(rest):
            return "maybe"
    after = rest[len('"name"') :].lstrip() if rest.startswith('"name"') else "?"
    if not after or (after[0] == ":" and after[1:].lstrip()[:1] in ("", '"')):
        return "maybe"
    return "no"


class LlamaReader:
    """Implements `calls.CallReader`: JSON, or a call in Python with keyword arguments."""

    waits = False
    broken = False
    call_id: str | None = None

    def __init__(self) -> None:
        self.text = ""
        self._json: JsonReader | None = None

    @property
    def in_string(self) -> bool:
        return self._json is not None and self._json.in_string

    @property
    def complete(self) -> bool:
        return self._json is not None and self._json.complete

    def feed(self, text: str) -> list[Event]:
        self.text += text
        if self._json is not None:
            return self._json.feed(text)
        if self.text.lstrip()[:1] == "{":
            self._json = JsonReader(KEYS)
            return self._json.feed(self.text)
        return []

    def result(self) -> tuple[str, str] | str:
        if self._json is not None:
            return self._json.result()
        found = _CALL.match(self.text)
        if found is None:
            return "it is no call of a tool: code is not run, call a tool by its name"
        try:
            tree: Any = parse_python(f"f({found[2]})", "eval")
            keywords: Any = tree.body.keywords
            if tree.body.args or any(one.arg is None for one in keywords):
                return "its arguments have no names"
            arguments = {one.arg: ast.literal_eval(one.value) for one in keywords}
            return found[1], json.dumps(arguments, ensure_ascii=False)
        except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
            return "its arguments cannot be read: they must be plain values"
