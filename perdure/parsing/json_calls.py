"""One tool call that is a JSON object, `{"name": "f", "arguments": {...}}`, read while it is written: Hermes's and Qwen's form,
Llama 3's (`parameters`), and an entry of Mistral's list (with its `id`).

Invariant: the argument text given out is a slice of the input, verbatim, and none of it depends on where the input was cut.
Whether a call is good is decided once, on its whole text, by a strict JSON parser.
"""

import json
import re
from typing import Any

from perdure.parsing.calls import Event

_BLANK = re.compile(r"[ \t\n\r]*")
_IN_STRING = re.compile(r'[^"\\\x00-\x1f]*')
_PLAIN = re.compile(r'[^"{}\[\],:]*')


class JsonReader:
    """Implements `calls.CallReader`. `keys`: what the arguments may be called. `has_id`: the object has the call's id."""

    def __init__(self, keys: tuple[str, ...] = ("arguments",), *, has_id: bool = False) -> None:
        self._keys = keys
        self.waits = has_id
        self.call_id: str | None = None
        self.text = ""
        self.broken = False
        self.complete = False
        self.in_string = False
        self._at = 0
        self._depth = 0
        self._escaped = False
        self._string_from = 0
        self._expects_key = False
        self._key: str | None = None
        self._value_from = -1
        self._given = 0
        self._arguments: tuple[int, int | None] | None = None
        self._name: str | None = None
        self._repeats = False

    def feed(self, text: str) -> list[Event]:
        self.text += text
        had_name = self._name is not None
        while self._at < len(self.text) and not self.broken:
            if not self._step():
                break
        events: list[Event] = []
        if self._name is not None:
            if not had_name:
                events.append(("name", self._name))
            if piece := self._new_arguments():
                events.append(("arguments", piece))
        return events

    def result(self) -> tuple[str, str] | str:
        try:
            call: Any = json.loads(self.text)
        except ValueError as error:
            return f"not valid JSON: {error}"
        except RecursionError:
            return "nested too deeply"
        if not isinstance(call, dict):
            return "not a JSON object"
        name = call.get("name")
        if not isinstance(name, str) or not name:
            return "it has no `name`"
        if name != self._name or self._repeats:
            return "it has two names or two `arguments`"
        if self.waits and isinstance(call.get("id"), str):
            self.call_id = call["id"] or None
        if self._arguments is None:
            return name, "{}"
        start, end = self._arguments
        return name, self.text[start:end].rstrip(" \t\n\r")

    def _new_arguments(self) -> str:
        """What of the arguments was not given out. A blank at the end may turn out to stand outside them."""
        if self._arguments is None:
            return ""
        start, end = self._arguments
        begin = max(start, self._given)
        piece = self.text[begin : self._at if end is None else end].rstrip(" \t\n\r")
        self._given = begin + len(piece)
        return piece

    def _step(self) -> bool:
        """Read on by one token or a part of a string; False when more text is needed."""
        if self.in_string:
            return self._string()
        if self._depth == 0 and not self.complete:
            self._at = _end(_BLANK, self.text, self._at)
            return self._at < len(self.text) and self._open_object()
        if self.complete:
            self._at = _end(_BLANK, self.text, self._at)
            self.broken = self._at < len(self.text)
            return False
        if self._value_from < 0 and self._key is not None and not self._expects_key and self._depth == 1:
            return self._value_start()
        self._at = _end(_PLAIN, self.text, self._at)
        if self._at < len(self.text):
            self._structure(self.text[self._at])
        return True

    def _open_object(self) -> bool:
        if self.text[self._at] != "{":
            self.broken = True
            return False
        self._depth, self._expects_key = 1, True
        self._at += 1
        return True

    def _value_start(self) -> bool:
        """After a top-level key: the colon, then where the value begins."""
        at = _end(_BLANK, self.text, self._at)
        if at < len(self.text) and self.text[at] == ":":
            at = _end(_BLANK, self.text, at + 1)
            if at < len(self.text):
                self._value_from = at
                self._at = at
                if self._key in self._keys:
                    self._repeats = self._arguments is not None
                    self._arguments = self._arguments or (at, None)
                return True
        elif at < len(self.text):
            self.broken = True
        return False

    def _structure(self, char: str) -> None:
        if char == '"':
            self.in_string, self._string_from = True, self._at
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        if self._depth == 0 or (self._depth == 1 and char == ","):
            self._end_value()
            self.complete = self._depth == 0
        self._at += 1

    def _end_value(self) -> None:
        if self._key in self._keys and self._arguments is not None and self._arguments[1] is None:
            self._arguments = (self._arguments[0], self._at)
        self._key, self._value_from, self._expects_key = None, -1, True

    def _string(self) -> bool:
        at = self._at
        while at < len(self.text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            at = _end(_IN_STRING, self.text, at)
            if at == len(self.text):
                break
            char = self.text[at]
            at += 1
            if char == "\\":
                self._escaped = True
            elif char == '"':
                self._at = at
                self._close_string()
                return True
            else:
                self.broken = True
                break
        self._at = at
        return False

    def _close_string(self) -> None:
        self.in_string = False
        if self._depth != 1:
            return
        written = self.text[self._string_from : self._at]
        if self._expects_key and self._key is None:
            self._key, self._expects_key = _unquoted(written), False
        elif self._key == "name" and self._value_from == self._string_from and self._name is None:
            self._name = _unquoted(written)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _unquoted(written: str) -> str | None:
    try:
        value: Any = json.loads(written)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
