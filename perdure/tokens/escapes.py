"""Message text on its way through a chat template.

A template's output mixes its own control tokens with what people wrote. Before rendering, every control token's text in a
message gets a stand-in for its first character, so that afterwards only the template's own are found; then it is put back.
Invariant: `restore(escape(text)) == text`, and no stand-in occurs in the messages themselves.
"""

import re
from collections.abc import Iterable
from typing import Any

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
PLACEHOLDER = ("\ue0f0", "\ue0f1")


class Escapes:
    """For the control tokens `words` and one conversation, whose text is `said`."""

    def __init__(self, words: Iterable[str], said: Iterable[str]) -> None:
        longest_first = sorted(words, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        firsts = sorted({word[0] for word in longest_first})
        taken = {char for text in said for char in set(text) if ord(char) >= _PRIVATE_USE.start}
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in taken)
        self._stand_ins = dict(zip(firsts, free, strict=False))
        self._back = str.maketrans({stand_in: char for char, stand_in in self._stand_ins.items()})

    def escape(self, text: str) -> str:
        if self._words is None:
            return text
        return self._words.sub(lambda found: self._stand_ins[found[0][0]] + found[0][1:], text)

    def restore(self, text: str) -> str:
        return text.translate(self._back)

    def escape_all(self, value: Any) -> Any:
        """The same for every string in a JSON value, keys included."""
        if isinstance(value, str):
            return self.escape(value)
        if isinstance(value, dict):
            return {self.escape_all(key): self.escape_all(item) for key, item in value.items()}
        return [self.escape_all(item) for item in value] if isinstance(value, list) else value


def placeholder(number: int) -> str:
    return f"{PLACEHOLDER[0]}{number}{PLACEHOLDER[1]}"


def locate(real: str, skeleton: str, contents: list[str]) -> list[tuple[int, int]] | None:
    """Where each content stands in `real`, given the same rendering with placeholders in their stead.

    None unless the two agree to the last character; a template may strip a content, nothing else.
    """
    pieces = re.split(f"{PLACEHOLDER[0]}(\\d+){PLACEHOLDER[1]}", skeleton)
    if pieces[1::2] != [str(number) for number in range(len(contents))]:
        return None
    frames = pieces[0::2]
    places: list[tuple[int, int]] = []
    at = len(frames[0])
    if not real.startswith(frames[0]):
        return None
    for content, frame in zip(contents, frames[1:], strict=True):
        variants = (content, content.strip(), content.strip("\n"), content.lstrip("\n"), content.rstrip())
        found = next((v for v in variants if real.startswith(v, at) and real.startswith(frame, at + len(v))), None)
        if found is None:
            return None
        places.append((at, at + len(found)))
        at += len(found) + len(frame)
    return places if at == len(real) else None
