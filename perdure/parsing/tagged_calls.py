"""Calls whose arguments are tagged text: Qwen3-Coder's and Qwen3.5's, and GLM's.

    <tool_call>⏎<function=NAME>⏎<parameter=KEY>⏎VALUE⏎</parameter>⏎</function>⏎</tool_call>
    <tool_call>NAME⏎<arg_key>KEY</arg_key>⏎<arg_value>VALUE</arg_value>⏎</tool_call>

Invariant: a closing tag ends a value only where the next argument or the call's end follows it; elsewhere it is part of the
value. The arguments given out are JSON, each value of the type its tool's schema asks for.
"""

import re
from abc import ABC, abstractmethod

from perdure.parsing.calls import Event, Schemas
from perdure.parsing.typed_values import ValueTypes, quoted

_BLANK = re.compile(r"\s*")


class TaggedReader(ABC):
    """Implements `calls.CallReader`. A subclass says how names and keys are written; values are read alike.

    `followers`: what stands after a value's closing tag, apart from the end of the call.
    """

    waits = False
    call_id: str | None = None
    close = ""
    followers: tuple[str, ...] = ()
    in_lines = False

    def __init__(self, schemas: Schemas) -> None:
        self.text = ""
        self.broken = False
        self.complete = False
        self._schemas = schemas
        self._at = 0
        self._name: str | None = None
        self._types = ValueTypes(None)
        self._keys: list[str] = []
        self._value_from = -1
        self._said = 0
        self._is_text = False
        self._wrong = ""
        self._json: list[str] = []
        self._end = re.compile(rf"{re.escape(self.close)}\s*(?={'|'.join(map(re.escape, self.followers))})")

    @property
    def in_string(self) -> bool:
        return self._value_from >= 0 and not self._seems_over()

    def feed(self, text: str) -> list[Event]:
        self.text += text
        had_name, given = self._name is not None, len(self._json)
        while not self.broken and self._step():
            pass
        events: list[Event] = []
        if self._name is not None and not had_name:
            events.append(("name", self._name))
        if len(self._json) > given:
            events.append(("arguments", "".join(self._json[given:])))
        return events

    def result(self) -> tuple[str, str] | str:
        if self._value_from >= 0 and not self.broken:
            before, closed, after = self.text[self._at :].rpartition(self.close)
            if not closed or after.strip():
                return f"the value of `{self._keys[-1]}` is not closed"
            self._take_value(self._at + len(before))
        if self.broken or not self._ends_well():
            return self._wrong
        assert self._name is not None
        return self._name, "".join(self._json) + "}" if self._keys else "{}"

    def _step(self) -> bool:
        return self._value() if self._value_from >= 0 else self._outside()

    @abstractmethod
    def _outside(self) -> bool:
        """Read on outside of values; False when more text is needed."""

    @abstractmethod
    def _ends_well(self) -> bool:
        """Whether the call may end here, outside of a value; else `_wrong` says why not."""

    def _seems_over(self) -> bool:
        """Whether the call seems to end inside the value, so that a marker there is meant."""
        return self.text.rstrip().endswith(self.close)

    def _fail(self, why: str) -> bool:
        self.broken, self._wrong = True, why
        return False

    def _call(self, name: str) -> bool:
        if not name:
            return self._fail("it names no function")
        self._name = name
        self._types = ValueTypes(self._schemas.get(name))
        return True

    def _begin_value(self, key: str, at: int) -> bool:
        if key in self._keys:
            return self._fail(f"`{key}` is given twice")
        self._is_text = self._types.is_text(key)
        self._json += [", " if self._keys else "{", quoted(key), ': "' if self._is_text else ": "]
        self._keys.append(key)
        self._value_from = self._said = self._at = at
        return True

    def _value(self) -> bool:
        if found := self._end.search(self.text, self._at):
            self._take_value(found.start())
            self._at = found.end()
            return True
        self._at = self._safe_end()
        if self._is_text:
            self._say(self._at)
        return False

    def _safe_end(self) -> int:
        """Up to where the text belongs to the value, whatever follows."""
        text, close = self.text, self.close
        end = len(text)
        at = text.rfind(close, self._at)
        rest = text[at + len(close) :].lstrip() if at >= 0 else "?"
        if not rest or any(follows.startswith(rest) for follows in self.followers):
            end = at
        else:
            for size in range(min(len(close) - 1, end - self._at), 0, -1):
                if text.endswith(close[:size]):
                    end -= size
                    break
        return end - 1 if self.in_lines and end > self._at and text[end - 1] == "\n" else end

    def _own_start(self) -> int:
        return self._value_from + (self.in_lines and self.text.startswith("\n", self._value_from))

    def _say(self, end: int) -> None:
        """Give out a string's text up to `end`."""
        start = max(self._said, self._own_start())
        if end > start:
            self._json.append(quoted(self.text[start:end])[1:-1])
            self._said = end

    def _take_value(self, at: int) -> None:
        """The value's closing tag stands at `at`."""
        start, end = self._own_start(), at
        if self.in_lines and end > start and self.text[end - 1] == "\n":
            end -= 1
        if self._is_text:
            self._say(end)
            self._json.append('"')
        else:
            self._json.append(self._types.as_json(self._keys[-1], self.text[start:end]))
        self._value_from, self._at = -1, at + len(self.close)

    def _rest(self) -> str:
        """What follows after blanks."""
        self._at = _BLANK.match(self.text, self._at).end()  # type: ignore[union-attr]
        return self.text[self._at :]


class QwenXmlReader(TaggedReader):
    close = "</parameter>"
    followers = ("<parameter=", "</function>")
    in_lines = True

    def _outside(self) -> bool:
        rest = self._rest()
        if not rest:
            return False
        if self.complete:
            return self._fail("there is text after </function>")
        if self._name is not None and rest.startswith("</function>"):
            self.complete = True
            self._at += len("</function>")
            return True
        opening = "<function=" if self._name is None else "<parameter="
        if not rest.startswith(opening):
            if opening.startswith(rest) or (self._name is not None and "</function>".startswith(rest)):
                return False
            return self._fail(f"there is other text where {opening}…> should stand")
        size = rest.find(">")
        if size < 0:
            return False if "\n" not in rest else self._fail(f"{opening} is not closed")
        name, self._at = rest[len(opening) : size].strip(), self._at + size + 1
        return self._call(name) if self._name is None else self._begin_value(name, self._at)

    def _ends_well(self) -> bool:
        left = self.text[self._at :].strip()
        self._wrong = f"there is {left[:40]!r} at its end" if left else "it names no function"
        return self._name is not None and not left

    def _seems_over(self) -> bool:
        end = self.text.rstrip()
        nested = "<function=" in self.text[self._value_from :]
        return end.endswith(self.close) or (end.endswith("</function>") and not nested)


class GlmReader(TaggedReader):
    close = "</arg_value>"
    followers = ("<arg_key>", "</tool_call>")
    _key: str | None = None

    def _outside(self) -> bool:
        if self._name is None:
            ends = [
                at
                for at in (self.text.find("\n", len(self.text) - len(self.text.lstrip())), self.text.find("<arg_key>"))
                if at >= 0
            ]
            if not ends:
                return False
            self._at = min(ends)
            return self._call(self.text[: self._at].strip())
        rest = self._rest()
        tag = "<arg_key>" if self._key is None else "<arg_value>"
        if not rest.startswith(tag):
            if tag.startswith(rest):
                return False
            return self._fail(f"there is other text where {tag} should stand")
        if self._key is not None:
            key, self._key = self._key, None
            return self._begin_value(key, self._at + len(tag))
        end = rest.find("</arg_key>")
        if end < 0:
            return False
        self._key = rest[len(tag) : end].strip()
        self._at += end + len("</arg_key>")
        return True

    def _ends_well(self) -> bool:
        if self._name is None and not self._call(self.text.strip()):
            return False
        left = "" if self._at == 0 else self.text[self._at :].strip()
        self._wrong = f"`{self._key}` has no value" if self._key is not None else f"there is {left[:40]!r} at its end"
        return self._key is None and not left
