"""Patches of memory blocks: a unified diff of one block, or directives for several.

A hunk is placed by its text, which has to occur exactly; the numbers of an `@@` line only choose between several
places. All of a patch applies or none of it.
"""

import re
from dataclasses import dataclass, field

from perdure.core.errors import ToolError
from perdure.memory import blocks as edits
from perdure.memory.blocks import BlockEdit, Blocks, EditResult, alike, editable, set_value

HUNK_HEADER = re.compile(r"@@(?: -(\d+)(?:,(\d+))?(?: \+\d+(?:,\d+)?)? @@.*|.*)")
DIRECTIVE = re.compile(r"\*\*\* (Add|Delete|Update) Block: (.+)")
MOVE = re.compile(r"\*\*\* Move to: (.+)")
FRAME = re.compile(r"\*\*\* (Begin|End) Patch\s*")
NO_NEWLINE = "\\ No newline"


@dataclass(slots=True)
class Hunk:
    """`old` and `new` are lines without their "\\n". `start`: the line the header says `old` begins at, from 1.

    `at_end`: the hunk says whether the text ends with a line end, so it can only stand at the end.
    """

    start: int | None = None
    header: str = ""
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    at_end: bool = False


def memory_apply_patch(blocks: Blocks, label: str, patch: str) -> EditResult:
    """Apply a unified diff to the block `label`, or a patch of several blocks, which names them itself."""
    lines = _without_blank_end(patch.split("\n"))
    if any(DIRECTIVE.fullmatch(line.rstrip()) for line in lines):
        return _apply_directives(blocks, lines)
    block = editable(blocks, label)
    return set_value(block, apply_diff(block.value, [line for line in lines if not FRAME.fullmatch(line)]))


def apply_diff(text: str, lines: list[str]) -> str:
    hunks = _hunks(lines)
    if not hunks:
        raise ToolError(
            'The patch holds no change. Write lines beginning with "-" (removed), "+" (added) or " " (kept).'
        )
    pieces = text.split("\n")
    from_piece, shift = 0, 0
    for number, hunk in enumerate(hunks, 1):
        at = _place(pieces, hunk, from_piece, shift, number)
        pieces[at : at + len(hunk.old)] = hunk.new
        from_piece = at + len(hunk.new)
        shift += len(hunk.new) - len(hunk.old)
    return "\n".join(pieces)


def _apply_directives(blocks: Blocks, lines: list[str]) -> EditResult:
    now = dict(blocks)
    done: list[BlockEdit] = []
    said: list[str] = []
    for kind, label, body in _sections(lines):
        for result in _directive(now, kind, label, body):
            now = edits.applied(now, result.edits)
            done.extend(result.edits)
            said.append(result.text)
    return EditResult("\n\n".join(said), tuple(done))


def _sections(lines: list[str]) -> list[tuple[str, str, list[str]]]:
    sections: list[tuple[str, str, list[str]]] = []
    for line in lines:
        if match := DIRECTIVE.fullmatch(line.rstrip()):
            sections.append((match[1], match[2].strip(), []))
        elif FRAME.fullmatch(line):
            continue
        elif sections:
            sections[-1][2].append(line)
        elif line.strip():
            raise ToolError(
                f'The patch begins with {line!r}; before it there must be "*** Update Block: <label>" or the like.'
            )
    return [(kind, label, _without_blank_end(body)) for kind, label, body in sections]


def _without_blank_end(lines: list[str]) -> list[str]:
    """Empty lines at the end of a patch are layout; a diff's own lines begin with a sign."""
    end = len(lines)
    while end and lines[end - 1] in ("", "\r"):
        end -= 1
    return lines[:end]


def _directive(blocks: Blocks, kind: str, label: str, body: list[str]) -> list[EditResult]:
    if kind == "Add":
        stray = next((line for line in body if line and not line.startswith("+")), None)
        if stray is not None:
            raise ToolError(f'Add Block "{label}": every line of the new block begins with "+", but one is {stray!r}.')
        return [edits.create(blocks, label, "\n".join(line[1:] for line in body))]
    if kind == "Delete":
        if any(line.strip() for line in body):
            raise ToolError(f'Delete Block "{label}" takes no further lines.')
        return [edits.delete(blocks, label)]
    moves = [match[1].strip() for line in body if (match := MOVE.fullmatch(line.rstrip()))]
    diff = [line for line in body if not MOVE.fullmatch(line.rstrip())]
    block = editable(blocks, label)
    results: list[EditResult] = []
    if any(line.strip() for line in diff) or not moves:
        changed = set_value(block, apply_diff(block.value, diff))
        results.append(EditResult(f'The memory block "{label}" is now:\n{changed.text}', changed.edits))
        blocks = edits.applied(blocks, changed.edits)
    if len(moves) > 1:
        raise ToolError(f'Update Block "{label}" has more than one "*** Move to:".')
    results.extend(edits.rename(blocks, label, new_label) for new_label in moves)
    return results


def _hunks(lines: list[str]) -> list[Hunk]:
    """The hunks of a diff. Without any `@@` line the whole is one hunk."""
    if len(lines) >= 2 and lines[0].startswith("--- ") and lines[1].startswith("+++ "):
        lines = lines[2:]
    hunks: list[Hunk] = []
    last = ""
    endings: dict[int, set[str]] = {}
    for line in lines:
        if line.startswith("@@") and (match := HUNK_HEADER.fullmatch(line.rstrip("\r"))):
            start = int(match[1]) if match[1] else None
            if start is not None and match[2] == "0":
                start += 1  # a hunk that only adds names the line before it
            hunks.append(Hunk(start=start, header=line))
            continue
        if not hunks:
            hunks.append(Hunk())
        hunk = hunks[-1]
        if line.startswith(NO_NEWLINE):
            endings.setdefault(len(hunks) - 1, set()).update("-+" if last == " " else last)
            continue
        last = line[:1] or " "
        if last not in "-+ ":
            raise ToolError(
                f'A line of the patch begins with neither "-", "+" nor a space: {line!r}. Nothing was changed.'
            )
        if last in "- ":
            hunk.old.append(line[1:])
        if last in "+ ":
            hunk.new.append(line[1:])
    for at, sides in endings.items():
        _end_of_text(hunks[at], sides)
    return [hunk for hunk in hunks if hunk.old or hunk.new]


def _end_of_text(hunk: Hunk, sides: set[str]) -> None:
    """Apply "No newline at end of file" marks: the side without one ends in a line end, an empty last piece here."""
    hunk.at_end = True
    if sides == {"-"}:
        hunk.new.append("")
    elif sides == {"+"}:
        hunk.old.append("")


def _place(pieces: list[str], hunk: Hunk, from_piece: int, shift: int, number: int) -> int:
    """Where in `pieces` the hunk's old lines stand."""
    if not hunk.old:
        return _place_addition(pieces, hunk, shift, number)
    size = len(hunk.old)
    places = [
        at
        for at in range(from_piece, len(pieces) - size + 1)
        if pieces[at] == hunk.old[0]
        and pieces[at : at + size] == hunk.old
        and (not hunk.at_end or at + size == len(pieces))
    ]
    if hunk.start is not None and hunk.start - 1 + shift in places:
        return hunk.start - 1 + shift
    if len(places) == 1:
        return places[0]
    which = f"Hunk {number}" + (f" ({hunk.header})" if hunk.header else "")
    if places:
        lines = ", ".join(str(at + 1) for at in places)
        raise ToolError(
            f"{which} fits in several places (lines {lines}). Nothing was changed. Add more unchanged lines around it."
        )
    raise ToolError(
        f"{which} does not fit: its unchanged and removed lines are not in the block in this order. "
        f"Nothing was changed."
        f"{alike(chr(10).join(pieces), chr(10).join(hunk.old))}"
    )


def _place_addition(pieces: list[str], hunk: Hunk, shift: int, number: int) -> int:
    """Where lines go that have no others around them: where the header says, else at the end."""
    if pieces == [""]:
        if hunk.start is None:
            hunk.old = [""]  # the empty text becomes the new lines, without a line end after them
            return 0
        return 1 if hunk.start - 1 + shift == 1 else 0  # after the one empty line, where the header names it
    last = len(pieces) - 1 if pieces[-1] == "" else len(pieces)
    if hunk.start is None:
        return last
    at = hunk.start - 1 + shift
    if not 0 <= at <= len(pieces):
        raise ToolError(
            f"Hunk {number} ({hunk.header}) adds lines after a line that is not there. Nothing was changed."
        )
    return at
