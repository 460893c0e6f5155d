"""Identifiers: `<prefix>-<uuid4>`, lower-case, as the Letta V1 wire has them.

A message id is allocated before its model call and its low 7 bits address the parts the message expands to
(`part_otid`), so that a streamed part and the stored one carry the same otid.
"""

import os
import re
import time
import uuid

DEFAULT_ORG_ID = "org-00000000-0000-4000-8000-000000000000"
DEFAULT_USER_ID = "user-00000000-0000-4000-8000-000000000000"

_UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def new_id(prefix: str) -> str:
    return f"{prefix}-{_uuid4()}"


def new_otid() -> str:
    return _uuid4()


def _uuid4() -> str:
    """As `str(uuid.uuid4())`, at a third of its cost: every message takes several."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


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
