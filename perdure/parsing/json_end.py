"""Where a JSON object or array ends, found while it is written.

Invariant: only brackets and strings are looked at; whether it is JSON is for a parser to say.
"""

import re

_PLAIN = re.compile(r'[^"{}\[\]]*')
_IN_STRING = re.compile(r'[^"\\]*')


class JsonEnd:
    """`in_string`: what was fed ends inside a string. `depth`: how many brackets are open."""

    def __init__(self) -> None:
        self.in_string = False
        self.depth = 0
        self.done = False
        self._escaped = False

    def feed(self, text: str, start: int = 0) -> int:
        """Read text[start:], which continues what was fed; where the value ends in it, or -1 if it does not."""
        at, size = start, len(text)
        while at < size:
            if self.in_string:
                at = self._string(text, at)
                continue
            at = _PLAIN.match(text, at).end()  # type: ignore[union-attr]
            if at == size:
                break
            char = text[at]
            at += 1
            if char == '"':
                self.in_string = True
            elif char in "{[":
                self.depth += 1
            else:
                self.depth -= 1
                if self.depth <= 0:
                    self.done = True
                    return at
        return -1

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        at = _IN_STRING.match(text, at).end()  # type: ignore[union-attr]
        if at < len(text):
            if text[at] == "\\":
                self._escaped = True
            else:
                self.in_string = False
            at += 1
        return at
