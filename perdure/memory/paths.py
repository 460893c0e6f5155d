"""The `memory` tool: memory blocks addressed like files, `/memories/<label>`.

A label may hold slashes and is the same in every command: what one command can create, every other can find.
"""

from perdure.core.errors import ToolError
from perdure.memory import blocks as edits
from perdure.memory.blocks import Blocks, EditResult

ROOT = "/memories"


def label_at(path: str) -> str:
    """The label of `/memories/<label>`; the leading part may be missing."""
    label = path.strip()
    for root in (ROOT + "/", ROOT.lstrip("/") + "/"):
        if label.startswith(root):
            return label[len(root) :].strip("/")
    return label.strip("/") if label.strip("/") != ROOT.lstrip("/") else ""


def memory(
    blocks: Blocks,
    command: str,
    path: str | None = None,
    file_text: str | None = None,
    description: str | None = None,
    old_string: str | None = None,
    new_string: str | None = None,
    insert_line: int | None = None,
    insert_text: str | None = None,
    old_path: str | None = None,
    new_path: str | None = None,
) -> EditResult:
    match command:
        case "create":
            return edits.create(blocks, _label(command, "path", path), file_text or "", description)
        case "str_replace":
            old, new = _needed(command, "old_string", old_string), new_string or ""
            return edits.memory_replace(blocks, _label(command, "path", path), old, new)
        case "insert":
            text = _needed(command, "insert_text", insert_text)
            line = -1 if insert_line is None else insert_line
            return edits.memory_insert(blocks, _label(command, "path", path), text, line)
        case "delete":
            return edits.delete(blocks, _label(command, "path", path))
        case "rename":
            return _rename(blocks, path, description, old_path, new_path)
        case _:
            raise ToolError(f"Unknown command {command!r}: use create, str_replace, insert, delete or rename.")


def _rename(
    blocks: Blocks, path: str | None, description: str | None, old_path: str | None, new_path: str | None
) -> EditResult:
    if new_path is not None:
        label, new_label = _label("rename", "old_path", old_path or path), _label("rename", "new_path", new_path)
        renamed = edits.rename(blocks, label, new_label)
        if description is None:
            return renamed
        described = edits.describe(edits.applied(blocks, renamed.edits), new_label, description)
        return EditResult(f"{renamed.text}\n{described.text}", (*renamed.edits, *described.edits))
    if description is None:
        raise ToolError("rename needs old_path and new_path, or path and description to change a block's description.")
    return edits.describe(blocks, _label("rename", "path", path or old_path), description)


def _needed(command: str, argument: str, value: str | None) -> str:
    if value is None:
        raise ToolError(f"{command} needs {argument}.")
    return value


def _label(command: str, argument: str, path: str | None) -> str:
    label = label_at(_needed(command, argument, path))
    if not label:
        raise ToolError(f"{command}: {argument} is {path!r}, but a memory block's path looks like {ROOT}/human.")
    return label
