"""Patches: what a diff tool writes applies exactly; what a model writes carelessly applies where it is unambiguous."""

import difflib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.core.agents import Block
from perdure.core.errors import ToolError
from perdure.memory.blocks import applied
from perdure.memory.patch import apply_diff, memory_apply_patch

LINES = st.lists(st.sampled_from(["", "a", "b", " a", "-x", "+y", "@@ z", "--- f", "t\t", "r\r"]), max_size=9)


def blocks_of(**values: str) -> dict[str, Block]:
    return {label: Block(id=f"block-{label}", label=label, value=value) for label, value in values.items()}


def patched(value: str, patch: str) -> str:
    return memory_apply_patch(blocks_of(human=value), "human", patch).text


@given(old=LINES, new=LINES, context=st.integers(0, 3))
@example(old=[], new=["", "a"], context=0)
def test_a_diff_of_two_texts_turns_one_into_the_other(old: list[str], new: list[str], context: int):
    diff = list(
        difflib.unified_diff("\n".join(old).split("\n"), "\n".join(new).split("\n"), "o", "n", n=context, lineterm="")
    )
    if diff:
        assert apply_diff("\n".join(old), diff) == "\n".join(new)


@given(old=LINES, new=LINES)
def test_the_reversed_diff_brings_the_text_back(old: list[str], new: list[str]):
    before, after = "\n".join(old), "\n".join(new)
    there = list(difflib.unified_diff(before.split("\n"), after.split("\n"), "o", "n", lineterm=""))
    back = list(difflib.unified_diff(after.split("\n"), before.split("\n"), "n", "o", lineterm=""))
    if there:
        assert apply_diff(apply_diff(before, there), back) == before


@pytest.mark.skipif(shutil.which("diff") is None, reason="needs the diff program")
@settings(max_examples=60, deadline=None)
@given(old=LINES, new=LINES, context=st.integers(1, 3), old_end=st.booleans(), new_end=st.booleans())
def test_what_the_diff_program_writes_applies(
    tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str], context: int, old_end: bool, new_end: bool
):
    before = "\n".join(old) + ("\n" if old and old_end else "")
    after = "\n".join(new) + ("\n" if new and new_end else "")
    folder = tmp_path_factory.mktemp("diff")
    for name, text in (("o", before), ("n", after)):
        Path(folder, name).write_bytes(text.encode())
    diff = subprocess.run(
        ["diff", f"-U{context}", "o", "n"], cwd=folder, capture_output=True, check=False
    ).stdout.decode()
    if diff:
        assert apply_diff(before, diff.removesuffix("\n").split("\n")) == after


def test_a_bare_hunk_without_numbers_is_placed_by_its_text():
    assert patched("one\ntwo\tx\nthree\n", " one\n-two\tx\n+2\n three\n") == "one\n2\nthree\n"
    assert patched("one\ntwo\n", "@@\n-two\n+2") == "one\n2\n"


def test_wrong_numbers_do_no_harm_where_the_text_occurs_once():
    assert patched("a\nb\nc", "@@ -40,7 +99,1 @@\n-b\n+B") == "a\nB\nc"


def test_right_numbers_choose_between_equal_places():
    assert patched("x\na\nx\n", "@@ -3 +3 @@\n-x\n+y") == "x\na\ny\n"


def test_without_numbers_equal_places_are_refused_with_their_lines():
    with pytest.raises(ToolError, match=r"Hunk 1 fits in several places \(lines 1, 3\)"):
        patched("x\na\nx\n", "-x\n+y")


def test_lines_without_surroundings_go_to_the_end():
    assert patched("a\n", "+b") == "a\nb\n"
    assert patched("a", "@@\n+b") == "a\nb"
    assert patched("", "+b\n+c") == "b\nc"


def test_an_addition_after_a_line_that_is_not_there_is_refused():
    with pytest.raises(ToolError, match=r"Hunk 1 \(@@ -9,0 \+10 @@\) adds lines after a line that is not there"):
        patched("a", "@@ -9,0 +10 @@\n+b")


def test_a_blank_context_line_may_have_lost_its_space():
    assert patched("a\n\nb", " a\n\n-b\n+c") == "a\n\nc"


def test_hunks_apply_in_order_or_not_at_all():
    assert patched("a\nb\nc\nd", "@@\n-a\n+A\n@@\n-d\n+D") == "A\nb\nc\nD"
    with pytest.raises(ToolError, match=r"Hunk 2 .*does not fit.*Nothing was changed"):
        patched("a\nb\nc\nd", "@@\n-d\n+D\n@@\n-a\n+A")


def test_a_hunk_that_does_not_fit_says_where_something_like_it_is():
    with pytest.raises(ToolError, match="Line 2 of the block is the same but for spaces"):
        patched("a\n\tb  c\nd", "-b c\n+x")


@pytest.mark.parametrize("patch", ["", "\n\n", "--- a\n+++ b", "@@ -1 +1 @@"])
def test_a_patch_without_changes_is_refused(patch: str):
    with pytest.raises(ToolError, match="holds no change"):
        patched("a", patch)


def test_a_line_without_sign_is_refused():
    with pytest.raises(ToolError, match="begins with neither"):
        patched("a", "-a\nb")


def test_line_ends_belong_to_the_line():
    assert patched("a\r\nb\r\n", "-b\r\n+c\r") == "a\r\nc\r\n"
    with pytest.raises(ToolError, match="spaces, tabs or line ends"):
        patched("a\r\nb\r\n", "-b\n+c")


def test_several_blocks_are_changed_by_one_patch():
    blocks = blocks_of(human="Ada\nLondon", old="x", persona="calm")
    result = memory_apply_patch(
        blocks,
        "ignored",
        "*** Begin Patch\n"
        "*** Add Block: trips/2026\n+Paris\n+\tRome\n\n"
        "*** Delete Block: old\n"
        "*** Update Block: human\n@@\n Ada\n-London\n+Paris\n\n"
        "*** Update Block: persona\n*** Move to: character\n"
        "*** End Patch\n",
    )
    after = applied(blocks, result.edits)
    assert {label: block.value for label, block in after.items()} == {
        "human": "Ada\nParis",
        "character": "calm",
        "trips/2026": "Paris\n\tRome",
    }
    assert [edit.kind for edit in result.edits] == ["create", "detach", "update", "rename"]
    assert 'The memory block "human" is now:\nAda\nParis' in result.text


def test_a_block_is_updated_and_moved_at_once():
    blocks = blocks_of(a="1")
    result = memory_apply_patch(blocks, "", "*** Update Block: a\n*** Move to: b/c\n@@\n-1\n+2")
    assert {label: block.value for label, block in applied(blocks, result.edits).items()} == {"b/c": "2"}
    assert [edit.base_version for edit in result.edits] == [1, 2]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("*** Add Block: a\n+x", '"a" already'),
        ("*** Add Block: b\nx", 'every line of the new block begins with "\\+"'),
        ("*** Delete Block: a\n-x", "takes no further lines"),
        ("*** Update Block: zz\n-x", 'no memory block "zz"'),
        ("*** Update Block: a", "holds no change"),
        ("*** Update Block: a\n*** Move to: b\n*** Move to: c", "more than one"),
        ("hello\n*** Delete Block: a", "begins with 'hello'"),
        ("*** Delete Block: a\n*** Update Block: ro\n-x\n+y", "read-only"),
    ],
)
def test_a_wrong_directive_is_named_and_nothing_is_changed(patch: str, message: str):
    blocks = blocks_of(a="1") | {"ro": Block(id="block-ro", label="ro", value="x", read_only=True)}
    with pytest.raises(ToolError, match=message):
        memory_apply_patch(blocks, "a", patch)


def test_the_limit_holds_for_patches():
    blocks = {"a": Block(id="block-a", label="a", value="12", limit=3)}
    with pytest.raises(ToolError, match="1 over its limit of 3"):
        memory_apply_patch(blocks, "a", "-12\n+1234")


def test_a_hunk_about_the_end_of_the_text_stands_only_there():
    mark = "\\ No newline at end of file"
    assert patched("a\nb\na", f"-a\n{mark}\n+c\n{mark}") == "a\nb\nc"
    assert patched("a\nb\na", f"-a\n{mark}\n+a") == "a\nb\na\n"
