"""What each run of the workload is to come to, as a function of its message: the engine plays it, the checker expects it."""

import hashlib
import re
from typing import NamedTuple

_MESSAGE = re.compile(r"^do (\S+)$")
TOOLS = ("note", "note", "look", "memory_insert")
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "isle", "jade", "knoll", "lake", "moss")


class Story(NamedTuple):
    """`calls`: the tools it calls, one a step, before it gives its answer. `note` calls must not be repeated, `look` may be,
    and `memory_insert` writes a line into the block that all agents share."""

    marker: str
    calls: tuple[str, ...]
    answer: str

    @property
    def message(self) -> str:
        return f"do {self.marker}"

    def line(self, step: int) -> str:
        """What a memory call of a step writes."""
        return f"{self.marker}-{step}"

    def said(self, step: int) -> str:
        """What the model says before it makes the call of a step."""
        return f"{self.marker} step {step}: {_words(f'{self.marker}/{step}', 6)}"


def story(marker: str) -> Story:
    digest = hashlib.sha256(marker.encode()).digest()
    calls = tuple(TOOLS[digest[at + 1] % len(TOOLS)] for at in range(digest[0] % 4))
    return Story(marker, calls, f"{marker} answer: {_words(marker, 12)}")


def story_of(message: str) -> Story | None:
    found = _MESSAGE.match(message.strip())
    return story(found[1]) if found else None


def _words(seed: str, count: int) -> str:
    digest = hashlib.sha256(f"words of {seed}".encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[:count])
