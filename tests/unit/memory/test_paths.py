"""The `memory` tool: every label one command can make, every other can find."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.agents import Block
from perdure.core.errors import ToolError
from perdure.memory.blocks import applied
from perdure.memory.paths import label_at, memory


def one(value: str = "", label: str = "human") -> dict[str, Block]:
    return {label: Block(id="block-1", label=label, value=value)}


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/memories/human", "human"),
        ("memories/human", "human"),
        ("human", "human"),
        ("/human", "human"),
        ("/memories/a/b.md", "a/b.md"),
        ("/memories/memories/a", "memories/a"),
        ("/memories/", ""),
        ("/memories", ""),
        ("", ""),
    ],
)
def test_the_label_is_what_follows_the_root(path: str, label: str):
    assert label_at(path) == label


def test_nested_labels_live_through_every_command():
    blocks: dict[str, Block] = {}
    path = "/memories/projects/perdure/notes"
    for arguments in (
        {"command": "create", "path": path, "description": "Notes", "file_text": "a\tb"},
        {"command": "str_replace", "path": path, "old_string": "a", "new_string": "A"},
        {"command": "insert", "path": path, "insert_line": 0, "insert_text": "top"},
        {"command": "rename", "path": path, "description": "Better notes"},
        {"command": "rename", "old_path": path, "new_path": "/memories/projects/old"},
    ):
        blocks = applied(blocks, memory(blocks, **arguments).edits)
    (kept,) = blocks.values()
    assert (kept.label, kept.value, kept.description) == ("projects/old", "top\nA\tb", "Better notes")
    assert applied(blocks, memory(blocks, "delete", "/memories/projects/old").edits) == {}


def test_edits_return_the_whole_value():
    blocks = one("a\nb")
    assert memory(blocks, "str_replace", "/memories/human", old_string="b", new_string="c").text == "a\nc"
    assert memory(blocks, "insert", "/memories/human", insert_text="z").text == "a\nb\nz"


def test_text_can_be_deleted_by_leaving_out_the_new_string():
    assert memory(one("a b"), "str_replace", "/memories/human", old_string=" b").text == "a"


def test_a_block_can_be_renamed_and_described_at_once():
    blocks = one("v")
    result = memory(blocks, "rename", old_path="/memories/human", new_path="/memories/ada", description="About Ada")
    assert [(edit.kind, edit.base_version) for edit in result.edits] == [("rename", 1), ("update", 2)]
    (kept,) = applied(blocks, result.edits).values()
    assert (kept.label, kept.description, kept.value) == ("ada", "About Ada", "v")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"command": "view", "path": "/memories/human"}, "Unknown command 'view': use create, str_replace"),
        ({"command": "create"}, "create needs path"),
        ({"command": "create", "path": "/memories/"}, "looks like /memories/human"),
        ({"command": "create", "path": "/memories/human"}, "already"),
        ({"command": "str_replace", "path": "/memories/human"}, "str_replace needs old_string"),
        ({"command": "insert", "path": "/memories/human"}, "insert needs insert_text"),
        ({"command": "rename"}, "rename needs old_path and new_path, or path and description"),
        ({"command": "rename", "new_path": "/memories/x"}, "rename needs old_path"),
        ({"command": "delete", "path": "/memories/other"}, 'no memory block "other"'),
    ],
)
def test_what_is_missing_or_wrong_is_named(arguments: dict[str, str], message: str):
    with pytest.raises(ToolError) as caught:
        memory(one("v"), **arguments)
    assert message in caught.value.message


@given(st.text(st.sampled_from("ab_-./ "), min_size=1, max_size=12))
def test_what_create_makes_delete_finds(name: str):
    path = f"/memories/{name}"
    try:
        blocks = applied({}, memory({}, "create", path).edits)
    except ToolError:
        return
    assert applied(blocks, memory(blocks, "delete", path).edits) == {}
