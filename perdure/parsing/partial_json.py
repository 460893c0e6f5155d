"""JSON read while it is written: fed text in any pieces, it tells what each piece adds to which string.

Invariant: the runs' `raw`, joined, are the text that was fed, and their `text`, joined by path, the strings that a whole parse
gives, wherever the text was cut. What is not JSON is told (`broken`), never guessed at. Line ends and other control
characters inside strings are let through, as models write them.
"""

import re
from typing import Literal

from msgspec import Struct

Path = tuple[str | int, ...]
Role = Literal["around", "key", "value", "broken"]

_PLAIN = re.compile(r'[^"\\]+')
_SPACE = re.compile(r"[ \t\n\r]+")
_SCALAR = re.compile(r"[^\s,:{}\[\]\"]+")
_WORTH = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_NOT_HEX = re.compile(r"[^0-9a-fA-F]")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

_State = Literal["value", "first", "key", "first_key", "colon", "after", "string", "name", "scalar", "end"]


class Run(Struct, frozen=True):
    """A piece of the source, of one kind.

    `member`: the key of the outermost object's member it belongs to; None between and around members. `role`: "around" them
    (brackets, commas), the member's "key" with its colon, its "value", or what follows where it is "broken". `path` and
    `text`: where the piece is part of a string value, which one, and the characters it adds.
    """

    raw: str
    role: Role
    member: str | None = None
    path: Path | None = None
    text: str = ""


class PartialJson:
    """One JSON value. `broken`: what is wrong with it and where, once that is certain; `done`: the value is complete."""

    def __init__(self) -> None:
        self.broken: str | None = None
        self._state: _State = "value"
        self._stack: list[str | int] = []
        self._kinds: list[str] = []
        self._held = ""
        self._name = ""
        self._key_raw = ""
        self._member: str | None = None
        self._high = ""
        self._read = 0
        self._runs: list[Run] = []

    @property
    def done(self) -> bool:
        return self._state == "end" and self.broken is None

    def feed(self, text: str) -> list[Run]:
        """What `text` adds. An escape, a key or a number that is cut waits for its rest."""
        text, self._held = self._held + text, ""
        at, size = 0, len(text)
        while at < size and self.broken is None:
            match self._state:
                case "string" | "name":
                    at = self._in_string(text, at)
                case "scalar":
                    at = self._in_scalar(text, at, last=False)
                case _:
                    at = self._between(text, at)
            if at < 0:  # the rest has to wait
                return self._taken()
        if at < size:
            self._put(text[at:], "broken")
        return self._taken()

    def finish(self) -> list[Run]:
        """No more will come: what waited is told, and a value that is not complete is broken."""
        waits = self.broken is None and self._state == "scalar"
        if waits and self._in_scalar(self._held, 0, last=True) == len(self._held):
            self._held = ""
        if self.broken is None and self._state != "end":
            self._break("it ends before it is complete")
        if self._held:
            self._put(self._held, "broken")
            self._held = ""
        return self._taken()

    def _taken(self) -> list[Run]:
        runs, self._runs = self._runs, []
        return runs

    # -- telling

    def _put(self, raw: str, role: Role, text: str | None = None) -> None:
        self._read += len(raw)
        path = tuple(self._stack) if text is not None else None
        member = self._member if role in ("key", "value") else None
        last = self._runs[-1] if self._runs else None
        if last is not None and (last.role, last.member, last.path) == (role, member, path):
            self._runs[-1] = Run(last.raw + raw, role, member, path, last.text + (text or ""))
        else:
            self._runs.append(Run(raw, role, member, path, text or ""))

    def _outside(self, raw: str) -> None:
        """Brackets, commas, colons and space: part of the member they stand in, if in one."""
        if self._key_raw:
            self._key_raw += raw
        elif self._member is None and self._kinds[:1] != ["["]:
            self._put(raw, "around")
        else:
            self._put(raw, "value")

    def _break(self, why: str) -> None:
        self.broken = f"at character {self._read + len(self._key_raw)}: {why}"
        if self._key_raw:
            self._put(self._key_raw, "broken")
            self._key_raw = ""

    # -- between values

    def _between(self, text: str, at: int) -> int:
        space = _SPACE.match(text, at)
        if space is not None:
            self._outside(space.group())
            return space.end()
        char = text[at]
        match self._state:
            case "value" | "first":
                if char == "]" and self._state == "first":
                    return self._close(char, at)
                return self._open_value(char, at)
            case "key" | "first_key":
                if char == "}" and self._state == "first_key":
                    return self._close(char, at)
                if char != '"':
                    return self._wrong(char, "a key in quotes", at)
                self._name, self._state = "", "name"
                self._key(char)
                return at + 1
            case "colon":
                if char != ":":
                    return self._wrong(char, "a colon", at)
                self._state = "value"
                self._key(char)
                if len(self._stack) == 1:
                    self._member = str(self._stack[0])
                    raw, self._key_raw = self._key_raw, ""
                    self._put(raw, "key")
                return at + 1
            case "after":
                return self._after(char, at)
            case _:
                return self._wrong(char, "nothing more", at)

    def _key(self, raw: str) -> None:
        if len(self._stack) == 1:
            self._key_raw += raw
        else:
            self._put(raw, "value")

    def _open_value(self, char: str, at: int) -> int:
        if char in "{[":
            if not self._kinds and char == "{":
                self._put(char, "around")
            else:
                self._put(char, "value")
            self._kinds.append(char)
            self._stack.append("" if char == "{" else 0)
            self._state = "first_key" if char == "{" else "first"
            return at + 1
        if char == '"':
            self._state = "string"
            self._put(char, "value", "")
            return at + 1
        if _SCALAR.match(char) is None:
            return self._wrong(char, "a value", at)
        self._state = "scalar"
        return at

    def _after(self, char: str, at: int) -> int:
        if char == ("}" if self._kinds[-1] == "{" else "]"):
            return self._close(char, at)
        if char != ",":
            return self._wrong(char, "a comma or the end", at)
        self._outside(char)
        if self._kinds[-1] == "{":
            self._state = "key"
        else:
            self._stack[-1] = int(self._stack[-1]) + 1
            self._state = "value"
        return at + 1

    def _close(self, char: str, at: int) -> int:
        self._outside(char)
        self._kinds.pop()
        self._stack.pop()
        self._ended()
        return at + 1

    def _ended(self) -> None:
        """A value is complete."""
        self._state = "after" if self._kinds else "end"
        if len(self._stack) == 1:
            self._member = None

    def _wrong(self, char: str, expected: str, at: int) -> int:
        self._break(f"{expected} was expected, not {char!r}")
        return at

    # -- strings and scalars

    def _in_string(self, text: str, at: int) -> int:
        char = text[at]
        if char == '"':
            self._add(char, self._high)
            self._high = ""
            if self._state == "name":
                self._stack[-1] = self._name
                self._state = "colon"
            else:
                self._ended()
            return at + 1
        if char == "\\":
            return self._escape(text, at)
        plain = _PLAIN.match(text, at)
        assert plain is not None
        self._add(plain.group(), self._high + plain.group())
        self._high = ""
        return plain.end()

    def _escape(self, text: str, at: int) -> int:
        end = at + (6 if text[at + 1 : at + 2] == "u" else 2)
        raw = text[at:end]
        if (bad := _NOT_HEX.search(raw, 2)) is not None:
            return self._wrong(raw[: bad.end()], "an escape of four hexadecimal digits", at)
        if len(raw) < end - at or raw == "\\":
            self._held = raw
            return -1
        if len(raw) == 2:
            if raw[1] not in _ESCAPES:
                return self._wrong(raw, "an escape that JSON knows", at)
            self._add(raw, self._high + _ESCAPES[raw[1]])
            self._high = ""
            return end
        code = int(raw[2:], 16)
        if self._high and 0xDC00 <= code < 0xE000:
            self._add(raw, chr(0x10000 + ((ord(self._high) - 0xD800) << 10) + (code - 0xDC00)))
            self._high = ""
        elif 0xD800 <= code < 0xDC00:  # half of a pair: the other half may follow
            self._add(raw, self._high)
            self._high = chr(code)
        else:
            self._add(raw, self._high + chr(code))
            self._high = ""
        return end

    def _add(self, raw: str, text: str) -> None:
        if self._state == "name":
            self._name += text
            self._key(raw)
        else:
            self._put(raw, "value", text)

    def _in_scalar(self, text: str, at: int, *, last: bool) -> int:
        found = _SCALAR.match(text, at)
        assert found is not None
        if found.end() == len(text) and not last:
            self._held = found.group()
            return -1
        if _WORTH.fullmatch(found.group()) is None:
            return self._wrong(found.group(), "a number, true, false, null or a string", at)
        self._put(found.group(), "value")
        self._ended()
        return found.end()
