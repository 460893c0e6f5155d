"""Edits change what they are asked to and nothing else; what is not allowed is said so that a model can act on it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.agents import Block
from perdure.core.errors import ToolError
from perdure.memory import blocks as edits
from perdure.memory.blocks import BlockEdit, EditResult, applied

TEXT = st.text(st.sampled_from("ab \t\r\n\x0b\u2028é→1"), max_size=30)


def block(value: str = "", label: str = "human", **more: object) -> Block:
    return Block(id=f"block-{label}", label=label, value=value, **more)  # type: ignore[arg-type]


def one(value: str = "", **more: object) -> dict[str, Block]:
    return {"human": block(value, **more)}


def value_after(result: EditResult, blocks: dict[str, Block], label: str = "human") -> str:
    return applied(blocks, result.edits)[label].value


def test_append_goes_on_a_new_line_and_returns_the_whole_value():
    result = edits.core_memory_append(one("Name: Ada"), "human", "Likes\ttea ")
    assert result.text == "Name: Ada\nLikes\ttea "
    (edit,) = result.edits
    assert (edit.kind, edit.block_id, edit.label, edit.base_version) == ("update", "block-human", "human", 1)
    assert (edit.block.value, edit.block.version) == (result.text, 2)


def test_core_replace_changes_every_occurrence():
    result = edits.core_memory_replace(one("tea, tea\tand tea"), "human", "tea", "milk")
    assert result.text == "milk, milk\tand milk"


def test_an_edit_that_changes_nothing_commits_nothing():
    assert edits.memory_replace(one("a b"), "human", "a", "a") == EditResult("a b")
    assert edits.memory_rethink(one("a b"), "human", "a b") == EditResult("a b")


def test_an_emptied_block_is_said_to_be_empty():
    result = edits.memory_replace(one("gone"), "human", "gone", "")
    assert result.text == 'The memory block "human" is now empty.'
    assert result.edits[0].block.value == ""


@pytest.mark.parametrize(
    ("value", "line", "after"),
    [
        ("", -1, "x"),
        ("", 0, "x"),
        ("a", -1, "a\nx"),
        ("a\n", -1, "a\nx"),
        ("a\nb", 0, "x\na\nb"),
        ("a\nb", 1, "a\nx\nb"),
        ("a\nb", 2, "a\nb\nx"),
        ("a\r\nb\r\n", 1, "a\r\nx\nb\r\n"),
        ("a\n\n\nb", 2, "a\n\nx\n\nb"),
    ],
)
def test_lines_go_in_after_the_line_that_is_named(value: str, line: int, after: str):
    assert edits.memory_insert(one(value), "human", "x", line).text == after


def test_a_line_that_does_not_exist_is_refused_with_the_lines_there_are():
    with pytest.raises(ToolError, match=r"has 2 lines.*0 .*to 2, or -1"):
        edits.memory_insert(one("a\nb"), "human", "x", 3)
    with pytest.raises(ToolError, match="insert_line is -2"):
        edits.memory_insert(one("a\nb"), "human", "x", -2)


def test_text_that_occurs_twice_is_refused_with_its_lines():
    with pytest.raises(ToolError, match=r"occurs 2 times .*lines 1, 3"):
        edits.memory_replace(one("tea\nmilk\ntea"), "human", "tea", "x")


def test_overlapping_occurrences_count():
    with pytest.raises(ToolError, match="occurs 2 times"):
        edits.memory_replace(one("aaa"), "human", "aa", "b")


@pytest.mark.parametrize(
    ("value", "old", "hint"),
    [
        ("x\n\tif a:\r\n\t\tb", "if a:\n    b", "Line 2 of the block is the same but for spaces"),
        ("x\nfirst\nother", "first\nsecond", "Its first line occurs in line 2"),
        ("x\nFirst", "first", "Line 2 of the block has it in other upper and lower case"),
    ],
)
def test_text_that_is_not_there_is_refused_with_where_something_like_it_is(value: str, old: str, hint: str):
    with pytest.raises(ToolError, match="was not found in the memory block") as caught:
        edits.memory_replace(one(value), "human", old, "y")
    assert hint in caught.value.message


def test_line_numbers_copied_from_the_prompt_are_refused():
    for argument in ({"old_string": "1→ a", "new_string": "b"}, {"old_string": "a", "new_string": "1→ b"}):
        with pytest.raises(ToolError, match="line numbers"):
            edits.memory_replace(one("a"), "human", **argument)
    with pytest.raises(ToolError, match="new_memory holds line numbers"):
        edits.memory_rethink(one("a"), "human", "x\n 12→ b")


def test_arrows_that_are_part_of_the_memory_can_be_edited():
    assert edits.memory_replace(one("1→ a"), "human", "1→ a", "2→ a").text == "2→ a"


@pytest.mark.parametrize("old", ["", "zz"])
def test_replacing_nothing_is_refused(old: str):
    for replace in (edits.core_memory_replace, edits.memory_replace):
        with pytest.raises(ToolError):
            replace(one("abc"), "human", old, "x")


EDITS: list[Callable[[dict[str, Block]], EditResult]] = [
    lambda b: edits.core_memory_append(b, "human", "x"),
    lambda b: edits.core_memory_replace(b, "human", "a", "xx"),
    lambda b: edits.memory_replace(b, "human", "a", "xx"),
    lambda b: edits.memory_insert(b, "human", "x"),
    lambda b: edits.memory_rethink(b, "human", "xx"),
]
OTHER_EDITS: list[Callable[[dict[str, Block]], EditResult]] = [
    lambda b: edits.delete(b, "human"),
    lambda b: edits.rename(b, "human", "y"),
    lambda b: edits.describe(b, "human", "y"),
]


@pytest.mark.parametrize("edit", EDITS + OTHER_EDITS)
def test_a_read_only_block_stays_as_it_is(edit: Callable[[dict[str, Block]], EditResult]):
    with pytest.raises(ToolError, match='"human" is read-only'):
        edit(one("a", read_only=True))


@pytest.mark.parametrize("edit", EDITS + OTHER_EDITS)
def test_an_unknown_label_is_refused_with_the_labels_there_are(edit: Callable[[dict[str, Block]], EditResult]):
    with pytest.raises(ToolError, match=r'no memory block "human".*persona, notes/today'):
        edit({"persona": block(label="persona"), "notes/today": block(label="notes/today")})


@pytest.mark.parametrize("edit", EDITS)
def test_the_limit_holds_and_the_refusal_says_by_how_much(edit: Callable[[dict[str, Block]], EditResult]):
    with pytest.raises(ToolError, match=r"over its limit of 1\b"):
        edit(one("a", limit=1))
    assert edit(one("a", limit=3)).edits


def test_a_block_over_its_limit_can_be_made_shorter_but_not_longer():
    blocks = one("abcdef", limit=3)
    assert edits.memory_replace(blocks, "human", "ef", "").text == "abcd"
    with pytest.raises(ToolError, match="7 characters long, 4 over its limit of 3"):
        edits.memory_replace(blocks, "human", "ef", "efg")


def test_a_new_block_has_an_id_of_its_own_and_its_value():
    result = edits.create({}, "notes/today", "line\t1\r\n", "What happened")
    (edit,) = result.edits
    assert (edit.kind, edit.block_id, edit.base_version, edit.block.version) == ("create", None, 0, 1)
    assert edit.block.id.startswith("block-")
    assert (edit.block.value, edit.block.description) == ("line\t1\r\n", "What happened")
    assert result.text == 'Created the memory block "notes/today".\n\nline\t1\r\n'


def test_a_new_block_keeps_to_the_default_limit():
    with pytest.raises(ToolError, match="1 over its limit of 100000"):
        edits.create({}, "big", "x" * 100_001)


def test_well_known_labels_get_a_description():
    assert edits.create({}, "human").edits[0].block.description == edits.DEFAULT_DESCRIPTIONS["human"]


@pytest.mark.parametrize("label", ["", " x", "x ", "a<b", "a\nb"])
def test_labels_that_would_break_the_prompt_are_refused(label: str):
    with pytest.raises(ToolError, match="cannot name a memory block"):
        edits.create({}, label)
    with pytest.raises(ToolError, match="cannot name a memory block"):
        edits.rename(one(), "human", label)


def test_a_taken_label_is_refused():
    blocks = {"a": block(label="a"), "b": block(label="b")}
    with pytest.raises(ToolError, match='"b" already'):
        edits.create(blocks, "b")
    with pytest.raises(ToolError, match='"b" already'):
        edits.rename(blocks, "a", "b")


def test_a_renamed_block_keeps_its_place_and_a_removed_one_is_gone():
    blocks = {"a": block("1", "a"), "b": block("2", "b"), "c": block("3", "c")}
    renamed = applied(blocks, edits.rename(blocks, "b", "x/y").edits)
    assert [(label, kept.label, kept.value) for label, kept in renamed.items()] == [
        ("a", "a", "1"),
        ("x/y", "x/y", "2"),
        ("c", "c", "3"),
    ]
    assert list(applied(renamed, edits.delete(renamed, "x/y").edits)) == ["a", "c"]


def test_edits_of_one_block_build_on_each_others_versions():
    blocks = one("a")
    versions: list[tuple[int, int]] = []
    for text in "bcd":
        result = edits.core_memory_append(blocks, "human", text)
        blocks = applied(blocks, result.edits)
        versions.append((result.edits[0].base_version, result.edits[0].block.version))
    assert blocks["human"].value == "a\nb\nc\nd"
    assert versions == [(1, 2), (2, 3), (3, 4)]


def test_other_fields_of_a_block_survive_an_edit():
    before = block("a", description="d", limit=9, tags=("t",), metadata={"k": 1}, extra={"e": 2}, created_us=5)
    (edit,) = edits.memory_rethink({"human": before}, "human", "b").edits
    assert isinstance(edit, BlockEdit)
    after = edit.block
    assert (after.description, after.limit, after.tags, after.metadata, after.extra, after.created_us) == (
        "d",
        9,
        ("t",),
        {"k": 1},
        {"e": 2},
        5,
    )


@given(before=TEXT, old=TEXT, after=TEXT, new=TEXT)
def test_replacing_touches_only_the_replaced_text(before: str, old: str, after: str, new: str):
    value = before + old + after
    if not old or len(edits.occurrences(value, old)) != 1 or (edits.LINE_NUMBER.search(new)):
        return
    result = edits.memory_replace(one(value), "human", old, new)
    assert value_after(result, one(value)) == before + new + after


@given(value=TEXT, new=TEXT.filter(lambda text: not edits.LINE_NUMBER.search(text)), data=st.data())
def test_inserting_keeps_every_character_and_puts_the_text_on_its_line(value: str, new: str, data: st.DataObject):
    lines = edits.lines_of(value)
    at = data.draw(st.integers(0, len(lines)))
    now = value_after(edits.memory_insert(one(value), "human", new, at), one(value))
    head = "".join(line + "\n" for line in lines[:at])
    tail = value[len(head) :] if len(head) <= len(value) else ""
    assert now.startswith(head)
    rest = now[len(head) :]
    assert rest.startswith(new) and rest.endswith(tail)
    assert rest[len(new) : len(rest) - len(tail)] in ("", "\n")


@given(value=TEXT, old=st.text("ab\t", min_size=1, max_size=2), new=TEXT)
def test_core_replace_is_pythons_replace(value: str, old: str, new: str):
    if old in value:
        result = edits.core_memory_replace(one(value), "human", old, new)
        assert value_after(result, one(value)) == value.replace(old, new)
