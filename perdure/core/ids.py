"""Identifiers: `<prefix>-<uuid4>`, lower-case, as the Letta V1 wire has them.

An id begins with the time in milliseconds and ends with 74 random bits: rows that are made together lie together in an index,
instead of each in a page of its own. To whoever reads one it is a version-4 uuid.

A message id is allocated before its model call and its low 7 bits address the parts the message expands to
(`part_otid`), so that a streamed part and the stored one carry the same otid.
"""

import os
import re
import time
import uuid
from collections.abc import Iterator

DEFAULT_ORG_ID = "org-00000000-0000-4000-8000-000000000000"
DEFAULT_USER_ID = "user-00000000-0000-4000-8000-000000000000"

_UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def new_id(prefix: str) -> str:
    return f"{prefix}-{_uuid4()}"


def new_otid() -> str:
    return _uuid4()


def _uuid4() -> str:
    digits = next(_random, None) or _more_random()
    ms = f"{time.time_ns() // 1_000_000:012x}"
    variant = "89ab"[int(digits[3], 16) & 3]
    return f"{ms[:8]}-{ms[8:]}-4{digits[:3]}-{variant}{digits[4:7]}-{digits[7:]}"


def _more_random() -> str:
    """Random digits for many ids: one call of the system each would cost as much as all the rest of an id."""
    global _random
    many = os.urandom(256 * 10).hex()
    # an iterator, so that of several threads each gets other digits
    made = _random = iter([many[at : at + 19] for at in range(0, len(many), 20)])
    return next(made)


def _forget_random() -> None:
    global _random
    _random = iter(())


_random: Iterator[str] = iter(())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_random)  # parent and child would make the same ids


def now_us() -> int:
    """Microseconds since the epoch, the unit of every stored time."""
    return time.time_ns() // 1000


def matches(prefix: str, value: str) -> bool:
    return re.fullmatch(rf"{re.escape(prefix)}-{_UUID4}", value) is not None


def trace_id_of(run_id: str) -> str:
    """A run's trace id: its own uuid, as 32 hex digits."""
    return run_id.partition("-")[2].replace("-", "")


def part_otid(message_id: str, index: int) -> str:
    """The otid of a message's part: its uuid with the lowest 7 bits replaced by the part's index (0 to 127)."""
    lowest = (int(message_id[-2:], 16) & 0x80) | (index & 0x7F)
    return f"{message_id.removeprefix('message-')[:-2]}{lowest:02x}"


def preceding_id(message_id: str) -> str:
    """The id of the approval request that goes before an assistant message: its uuid minus one."""
    value = uuid.UUID(message_id.removeprefix("message-")).int
    return f"message-{uuid.UUID(int=value - 1)}"
