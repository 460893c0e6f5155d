"""A cache bounded by bytes, for values whose sizes differ by orders of magnitude; and what messages weigh in it."""

import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

from perdure.core.messages import Message, Part, ReasoningPart, TextPart

K = TypeVar("K")
V = TypeVar("V")

MESSAGE = 600  # bytes of one with nothing in it
PIECE = 120  # of a part, a call or a return


class Weighed(Generic[K, V]):
    """The values used last, together at most `most` bytes as they were weighed; the newest stays whatever it weighs."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V | None:
        held = self._held.get(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        return held[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep it, or weigh it anew."""
        self.pop(key)
        self._held[key] = (value, weight)
        self.weight += weight
        while self.weight > self._most and len(self._held) > 1:
            _, (_, gone) = self._held.popitem(last=False)
            self.weight -= gone

    def pop(self, key: K) -> V | None:
        held = self._held.pop(key, None)
        if held is None:
            return None
        self.weight -= held[1]
        return held[0]


def weight_of(messages: Iterable[Message]) -> int:
    """About how many bytes of memory they take."""
    total = 0
    for message in messages:
        total += MESSAGE + _parts(message.content)
        for call in message.tool_calls:
            total += PIECE + sys.getsizeof(call.arguments)
        for each in message.tool_returns:
            content = each.content
            total += PIECE + (sys.getsizeof(content) if isinstance(content, str) else _parts(content))
    return total


def _parts(parts: Iterable[Part]) -> int:
    total = 0
    for part in parts:
        total += PIECE + sys.getsizeof(part.text if isinstance(part, TextPart | ReasoningPart) else part.data)
    return total
