"""Edits of memory blocks, as pure functions: blocks in, a text for the model and the changes out.

Nothing but the edited characters changes: tabs, trailing spaces and line ends of the rest stay as they were. An edit
that is not allowed raises ToolError, whose text tells the model what to do, and changes nothing.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.core.agents import Block
from perdure.core.errors import ToolError
from perdure.core.ids import new_id, now_us

Blocks = Mapping[str, Block]

DEFAULT_DESCRIPTIONS = {
    "human": "What you know about the person you talk to: name, background, preferences, plans. Keep it current.",
    "persona": "Who you are: your character, your way of speaking and what you have learnt about how to behave.",
}
LINE_NUMBER = re.compile(r"^\s*\d+→", re.MULTILINE)
LINE_NUMBER_WARNING = "The line numbers with arrows are only for reading; they are not part of the memory."


class BlockEdit(Struct, frozen=True, kw_only=True):
    """One change to commit.

    `block` is the block as it is afterwards (for "detach": as it was). `base_version` is the version the edit was made
    on; a block of another version has been changed by someone else, and the edit has to be made again.
    """

    kind: Literal["update", "create", "detach", "rename"]
    block: Block
    base_version: int

    @property
    def block_id(self) -> str | None:
        """The edited block; None when the edit makes a new one."""
        return None if self.kind == "create" else self.block.id

    @property
    def label(self) -> str:
        return self.block.label


class EditResult(Struct, frozen=True):
    """`text` is what the model is told; `edits` what is to be committed, in order (none: nothing changed)."""

    text: str
    edits: tuple[BlockEdit, ...] = ()


def applied(blocks: Blocks, edits: Iterable[BlockEdit]) -> dict[str, Block]:
    """The blocks after the edits, in their old order, new ones last."""
    now = dict(blocks)
    for edit in edits:
        if edit.kind == "detach":
            now = {label: block for label, block in now.items() if block.id != edit.block.id}
        elif edit.kind == "rename":
            now = {
                (edit.label if block.id == edit.block.id else label): edit.block if block.id == edit.block.id else block
                for label, block in now.items()
            }
        else:
            now[edit.label] = edit.block
    return now


def find(blocks: Blocks, label: str) -> Block:
    block = blocks.get(label)
    if block is None:
        known = ", ".join(blocks) or "none"
        raise ToolError(f'There is no memory block "{label}". Your memory blocks: {known}.')
    return block


def editable(blocks: Blocks, label: str) -> Block:
    block = find(blocks, label)
    if block.read_only:
        raise ToolError(f'The memory block "{label}" is read-only: it cannot be edited.')
    return block


def set_value(block: Block, value: str) -> EditResult:
    """Give a block another value. One that is over its limit already may still be made shorter."""
    if value == block.value:
        return EditResult(shown(block.label, value))
    _within_limit(block, value)
    return EditResult(shown(block.label, value), (_changed(block, value=value),))


def shown(label: str, value: str) -> str:
    return value or f'The memory block "{label}" is now empty.'


def core_memory_append(blocks: Blocks, label: str, content: str) -> EditResult:
    block = editable(blocks, label)
    return set_value(block, f"{block.value}\n{content}")


def core_memory_replace(blocks: Blocks, label: str, old_content: str, new_content: str) -> EditResult:
    """Replace every occurrence."""
    block = editable(blocks, label)
    _must_occur(block, "old_content", old_content)
    return set_value(block, block.value.replace(old_content, new_content))


def memory_replace(blocks: Blocks, label: str, old_string: str, new_string: str) -> EditResult:
    """Replace the one occurrence of `old_string`."""
    block = editable(blocks, label)
    _no_line_numbers(block, "old_string", old_string)
    if not LINE_NUMBER.search(old_string):
        _no_line_numbers(block, "new_string", new_string)
    _must_occur(block, "old_string", old_string)
    at = occurrences(block.value, old_string)
    if len(at) > 1:
        lines = ", ".join(str(line_of(block.value, offset)) for offset in at)
        raise ToolError(
            f'old_string occurs {len(at)} times in the memory block "{label}" (it begins in lines {lines}). '
            "Nothing was changed. Give more of the text around it, so that it occurs once."
        )
    return set_value(block, block.value[: at[0]] + new_string + block.value[at[0] + len(old_string) :])


def memory_insert(blocks: Blocks, label: str, new_string: str, insert_line: int = -1) -> EditResult:
    """Put lines after line `insert_line` (0: before the first; -1: after the last)."""
    block = editable(blocks, label)
    _no_line_numbers(block, "new_string", new_string)
    ends = _line_ends(block.value)
    if insert_line < -1 or insert_line > len(ends):
        raise ToolError(
            f'insert_line is {insert_line}, but the memory block "{label}" has {len(ends)} lines: '
            f"give 0 (before the first) to {len(ends)}, or -1 (at the end)."
        )
    number = len(ends) if insert_line == -1 else insert_line
    offset = ends[number - 1] if number else 0
    before, after = block.value[:offset], block.value[offset:]
    if before and not before.endswith("\n"):
        before += "\n"
    if after and not new_string.endswith("\n"):
        new_string += "\n"
    return set_value(block, before + new_string + after)


def memory_rethink(blocks: Blocks, label: str, new_memory: str) -> EditResult:
    block = editable(blocks, label)
    _no_line_numbers(block, "new_memory", new_memory)
    return set_value(block, new_memory)


def memory_finish_edits() -> EditResult:
    return EditResult("Memory edits finished.")


def create(blocks: Blocks, label: str, value: str = "", description: str | None = None) -> EditResult:
    check_new_label(blocks, label)
    now = now_us()
    block = Block(
        id=new_id("block"),
        label=label,
        description=description if description is not None else DEFAULT_DESCRIPTIONS.get(label),
        created_us=now,
        updated_us=now,
    )
    _within_limit(block, value)
    block = msgspec.structs.replace(block, value=value)
    return EditResult(
        f'Created the memory block "{label}".' + (f"\n\n{value}" if value else ""),
        (BlockEdit(kind="create", block=block, base_version=0),),
    )


def delete(blocks: Blocks, label: str) -> EditResult:
    block = editable(blocks, label)
    edit = BlockEdit(kind="detach", block=block, base_version=block.version)
    return EditResult(f'Removed the memory block "{label}" from your memory.', (edit,))


def rename(blocks: Blocks, label: str, new_label: str) -> EditResult:
    block = editable(blocks, label)
    if new_label == label:
        return EditResult(f'The memory block is called "{label}" already.')
    check_new_label(blocks, new_label)
    edit = _changed(block, kind="rename", label=new_label)
    return EditResult(f'Renamed the memory block "{label}" to "{new_label}".', (edit,))


def describe(blocks: Blocks, label: str, description: str) -> EditResult:
    block = editable(blocks, label)
    text = f'The description of the memory block "{label}" is now: {description}'
    if block.description == description:
        return EditResult(text)
    return EditResult(text, (_changed(block, description=description),))


def check_new_label(blocks: Blocks, label: str) -> None:
    if label in blocks:
        raise ToolError(f'There is a memory block "{label}" already. Choose another name, or edit that block.')
    if not label or label != label.strip() or re.search(r"[<>\x00-\x1f]", label):
        raise ToolError(f"{label!r} cannot name a memory block: use letters, digits, spaces, '_', '-', '.' and '/'.")


def occurrences(text: str, part: str) -> list[int]:
    """Offsets of `part` in `text`, overlapping ones too."""
    found: list[int] = []
    at = text.find(part)
    while at >= 0:
        found.append(at)
        at = text.find(part, at + 1)
    return found


def line_of(text: str, offset: int) -> int:
    """The number, from 1, of the line an offset is in."""
    return text.count("\n", 0, offset) + 1


def lines_of(text: str) -> list[str]:
    """The lines as they are counted and shown. Only "\\n" ends a line; one at the very end begins no further line."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def alike(text: str, part: str) -> str:
    """Where `text` has something close to `part`, as a sentence for the model; "" if nowhere."""
    wanted = [line.split() for line in part.strip().split("\n")]
    lines = [line.split() for line in text.split("\n")]
    for at in range(len(lines) - len(wanted) + 1):
        if lines[at : at + len(wanted)] == wanted:
            return f" Line {at + 1} of the block is the same but for spaces, tabs or line ends: copy it exactly."
    first = part.strip().split("\n")[0].strip()
    if first and (at := text.find(first)) >= 0:
        return f" Its first line occurs in line {line_of(text, at)} of the block, but what follows there is different."
    if first and (at := text.lower().find(first.lower())) >= 0:
        return f" Line {line_of(text, at)} of the block has it in other upper and lower case."
    return ""


def _changed(block: Block, kind: Literal["update", "rename"] = "update", **changes: str) -> BlockEdit:
    after = msgspec.structs.replace(block, version=block.version + 1, updated_us=now_us(), **changes)
    return BlockEdit(kind=kind, block=after, base_version=block.version)


def _within_limit(block: Block, value: str) -> None:
    if len(value) > block.limit and len(value) >= len(block.value):
        over = len(value) - block.limit
        raise ToolError(
            f'The memory block "{block.label}" would be {len(value)} characters long, {over} over its limit of '
            f"{block.limit}. Nothing was changed. Shorten the text, or remove something from the block first."
        )


def _must_occur(block: Block, argument: str, text: str) -> None:
    if not text:
        raise ToolError(f"{argument} is empty: give the text to be replaced, exactly as it stands in the block.")
    if text not in block.value:
        raise ToolError(
            f'{argument} was not found in the memory block "{block.label}". Nothing was changed. '
            f"It has to be copied exactly as it stands there.{alike(block.value, text)}"
        )


def _no_line_numbers(block: Block, argument: str, text: str) -> None:
    if LINE_NUMBER_WARNING in text or (LINE_NUMBER.search(text) and text not in block.value):
        raise ToolError(
            f'{argument} holds line numbers ("1→ ..."). Those are only for reading: leave them out. '
            "Nothing was changed."
        )


def _line_ends(text: str) -> list[int]:
    """For each line the offset where the next one begins."""
    ends = [match.end() for match in re.finditer("\n", text)]
    if text and not text.endswith("\n"):
        ends.append(len(text))
    return ends
