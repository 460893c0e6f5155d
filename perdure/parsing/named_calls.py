"""Calls that are a name and a JSON value of arguments: DeepSeek's, Mistral's and harmony's.

    DeepSeek V3, R1   function<｜tool▁sep｜>NAME⏎```json⏎{…}⏎```
    DeepSeek V3.1     NAME<｜tool▁sep｜>{…}
    Mistral v11, v13  NAME[CALL_ID]ID[ARGS]{…}      NAME[ARGS]{…}
    harmony           the name stands in the message's header, {…} is its body

Invariant: the arguments are the model's own text, unchanged; they are given out once the name is known.
"""

import json
import re
from abc import ABC, abstractmethod

from perdure.parsing.calls import Event
from perdure.parsing.json_end import JsonEnd

_NAME = re.compile(r"[^\s\[\]{}<>|]+")
_RECIPIENT = re.compile(r"\bto=(\S+?)(?=\s|<\||$)")
_FENCE = re.compile(r"([^\n]{1,200})\n[ \t\r\n]{0,16}```(?:json)?[ \t]*\n")
_ARGUMENTS = re.compile(r"\[ARGS\]|(?={)")
_BLANKS = " \t\r\n"


class NamedReader(ABC):
    """Implements `calls.CallReader`. A subclass finds the head; `tail`: what may stand after the arguments."""

    waits = False
    tail = ""

    def __init__(self) -> None:
        self.text = ""
        self.broken = False
        self.call_id: str | None = None
        self._name: str | None = None
        self._from = -1
        self._given = 0
        self._looked = 0
        self._until = -1
        self._end = JsonEnd()
        self._wrong = "it names no function"

    @property
    def in_string(self) -> bool:
        return self._end.in_string

    @property
    def complete(self) -> bool:
        return self._until >= 0

    def feed(self, text: str) -> list[Event]:
        self.text += text
        if self.broken:
            return []
        events: list[Event] = []
        if self._name is None:
            self._find_head()
            if self._name is None:
                return []
            events.append(("name", self._name))
        if piece := self._new_arguments():
            events.append(("arguments", piece))
        return events

    def result(self) -> tuple[str, str] | str:
        if self._name is None and (self.broken or not self._is_whole()):
            return self._wrong
        assert self._name is not None
        end = len(self.text) if self._until < 0 else self._until
        written = self.text[self._from : end].strip(_BLANKS)
        if left := self.text[end:].strip(_BLANKS).removesuffix(self.tail).strip(_BLANKS):
            return f"there is {left[:40]!r} after its arguments"
        if not written:
            return self._name, "{}"
        try:
            json.loads(written)
        except ValueError as error:
            return f"not valid JSON: {error}"
        except RecursionError:
            return "nested too deeply"
        return self._name, written

    @abstractmethod
    def _find_head(self) -> None:
        """Set `_name` and `_from`, where the arguments begin, once both are known."""

    def _is_whole(self) -> bool:
        """Whether the text is a call without arguments: a name alone. Sets `_name` then."""
        return False

    def _take_name(self, name: str, arguments_from: int) -> None:
        name = name.strip()
        if _NAME.fullmatch(name) is None:
            self.broken, self._wrong = True, f"{name[:40]!r} is no function's name"
            return
        self._name, self._from = name, arguments_from

    def _new_arguments(self) -> str:
        """What of the arguments was not given out. A blank at the end may turn out to stand outside them."""
        if not self._given:
            while self._from < len(self.text) and self.text[self._from] in _BLANKS:
                self._from += 1
            self._given = self._looked = self._from
        if self._until < 0 and self._looked < len(self.text):
            if not self._end.depth and self.text[self._from] not in "{[":
                self._looked = len(self.text)  # no object; a JSON parser says what it is
            else:
                self._until = self._end.feed(self.text, self._looked)
                self._looked = len(self.text)
        end = len(self.text) if self._until < 0 else self._until
        piece = self.text[self._given : end].rstrip(_BLANKS)
        self._given += len(piece)
        return piece


class DeepSeekReader(NamedReader):
    tail = "```"
    _SEP = "<｜tool▁sep｜>"

    def _find_head(self) -> None:
        at = self.text.find(self._SEP)
        if at < 0:
            return
        after = at + len(self._SEP)
        rest = self.text[after:].lstrip(_BLANKS)
        if not rest:
            return
        if rest[0] in "{[":
            self._take_name(self.text[:at], after)
        elif fence := _FENCE.match(self.text, after):
            self._take_name(fence[1], fence.end())
        elif len(rest) > 300:
            self.broken, self._wrong = True, "no ```json block follows its name"

    def _is_whole(self) -> bool:
        name, sep, rest = self.text.partition(self._SEP)
        if sep and not rest.strip(_BLANKS):
            self._take_name(name, len(self.text))
        return self._name is not None


class MistralReader(NamedReader):
    def _find_head(self) -> None:
        found = _ARGUMENTS.search(self.text)
        if found is None:
            return
        name, marked, call_id = self.text[: found.start()].partition("[CALL_ID]")
        self._take_name(name, found.end() if found[0] else found.start())
        if marked and call_id.strip():
            self.call_id = call_id.strip() or None


class HarmonyReader(NamedReader):
    """`header`: the message's, which names the tool as its recipient: `… to=functions.NAME …`."""

    def __init__(self, header: str) -> None:
        super().__init__()
        found = _RECIPIENT.search(header)
        if found is not None:
            self._head = found[1].removeprefix("functions.")

    _head = ""

    def _find_head(self) -> None:
        self._take_name(self._head, 0)

    def _is_whole(self) -> bool:
        self._take_name(self._head, len(self.text))
        return self._name is not None
