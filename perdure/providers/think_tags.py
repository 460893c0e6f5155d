"""Thinking that comes in the text of an answer, between <think> tags at its beginning: told apart while it arrives.

Invariant: fed in any pieces, the parts are the same. Put back between the tags (`tagged`), they are what the model wrote, but for
more or fewer newlines around the tags than templates have.
"""

from typing import Literal

OPEN, CLOSE = "<think>", "</think>"

Kind = Literal["thinking", "text"]


class ThinkTags:
    """`feed` gives (kind, text) in order; `finish` what was held back in case it was a tag."""

    __slots__ = ("_held", "_newlines", "_state")

    def __init__(self) -> None:
        self._state: Literal["begin", "thinking", "text"] = "begin"
        self._held = ""
        self._newlines = 0

    def feed(self, text: str) -> list[tuple[Kind, str]]:
        if self._state == "text":
            return self._text(text)
        text, self._held = self._held + text, ""
        if self._state == "begin":
            begun = text.lstrip()
            if begun.startswith(OPEN):
                self._state, self._newlines = "thinking", 1
                text = begun[len(OPEN) :]
            elif OPEN.startswith(begun):
                self._held = text
                return []
            else:
                self._state = "text"
                return [("text", text)]
        return self._thinking(text)

    def finish(self) -> list[tuple[Kind, str]]:
        held, self._held = self._held, ""
        if not held:
            return []
        return [("thinking" if self._state == "thinking" else "text", held)]

    def _thinking(self, text: str) -> list[tuple[Kind, str]]:
        if self._newlines and text:
            text, self._newlines = text.removeprefix("\n"), 0
        end = text.find(CLOSE)
        if end >= 0:
            thought = text[:end].removesuffix("\n")
            self._state, self._newlines = "text", 2
            found: list[tuple[Kind, str]] = [("thinking", thought)] if thought else []
            return found + self._text(text[end + len(CLOSE) :])
        keep = _begun_close(text)
        self._held = text[len(text) - keep :]
        thought = text[: len(text) - keep]
        return [("thinking", thought)] if thought else []

    def _text(self, text: str) -> list[tuple[Kind, str]]:
        while self._newlines and text:
            if text[0] != "\n":
                self._newlines = 0
                break
            text = text[1:]
            self._newlines -= 1
        return [("text", text)] if text else []


def _begun_close(text: str) -> int:
    """How many characters at the end of a text may be the beginning of the closing tag, its newline included."""
    whole = "\n" + CLOSE
    for size in range(min(len(whole) - 1, len(text)), 0, -1):
        if text.endswith(whole[:size]) or (size < len(CLOSE) and text.endswith(CLOSE[:size])):
            return size
    return 0


def tagged(thinking: str, text: str) -> str:
    """An answer with its thinking in the text, as chat templates write it."""
    return f"{OPEN}\n{thinking}\n{CLOSE}\n\n{text}" if thinking else text
