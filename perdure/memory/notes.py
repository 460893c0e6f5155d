"""What changed in an agent's blocks since a conversation last saw them, as one note to append to it.

Used where the compiled prompt stays as it is (`memory_rendering = "append"`). The same two states always give the same
text.
"""

import difflib
from collections.abc import Mapping

DIFF_FROM_CHARS = 1_000
DIFF_LINES_AT_MOST = 4_000


def blocks_note(seen: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """`seen` and `now`: label -> value. None when nothing changed."""
    changes = [_new(label, value) for label, value in now.items() if label not in seen]
    changes += [_changed(label, seen[label], value) for label, value in now.items() if seen.get(label, value) != value]
    changes += [f'The memory block "{label}" is no longer attached.' for label in sorted(seen) if label not in now]
    if not changes:
        return None
    listed = "\n\n".join(changes)
    return (
        "<memory_update>\nYour memory has changed since it was last shown to you. This replaces what stands above.\n\n"
        f"{listed}\n</memory_update>"
    )


def _new(label: str, value: str) -> str:
    return f"New memory block:\n{_whole(label, value)}"


def _changed(label: str, old: str, new: str) -> str:
    diff = _diff(old, new) if len(new) >= DIFF_FROM_CHARS else None
    if diff is None:
        return f"Changed memory block:\n{_whole(label, new)}"
    return f"Changed memory block (only the changed lines):\n<{label}>\n<diff>\n{diff}\n</diff>\n</{label}>"


def _whole(label: str, value: str) -> str:
    return f"<{label}>\n<value>\n{value}\n</value>\n</{label}>"


def _diff(old: str, new: str) -> str | None:
    """A unified diff where it is at most half as long as the new value."""
    old_lines, new_lines = old.split("\n"), new.split("\n")
    if len(old_lines) + len(new_lines) > DIFF_LINES_AT_MOST:
        return None
    diff = "\n".join(list(difflib.unified_diff(old_lines, new_lines, n=1, lineterm=""))[2:])
    return diff if len(diff) * 2 <= len(new) else None
