"""The note about changed blocks: what it names, what it leaves out, and that it can be relied on to be the same again."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.memory.notes import blocks_note

STATES = st.dictionaries(st.sampled_from(["a", "b", "c/d"]), st.text(max_size=8))


def note(seen: dict[str, str], now: dict[str, str]) -> str:
    text = blocks_note(seen, now)
    assert text is not None
    return text


def test_nothing_changed_is_no_note():
    assert blocks_note({}, {}) is None
    assert blocks_note({"a": "x", "b": "y"}, {"b": "y", "a": "x"}) is None


def test_new_changed_and_detached_blocks_are_told():
    text = note({"human": "Ada", "old": "x", "same": "s"}, {"human": "Ada\tL. ", "same": "s", "trip": "Rome"})
    assert "New memory block:\n<trip>\n<value>\nRome\n</value>\n</trip>" in text
    assert "Changed memory block:\n<human>\n<value>\nAda\tL. \n</value>\n</human>" in text
    assert 'The memory block "old" is no longer attached.' in text
    assert "same" not in text
    assert text.startswith("<memory_update>\n") and text.endswith("\n</memory_update>")


def test_an_emptied_block_is_told():
    assert "<human>\n<value>\n\n</value>\n</human>" in note({"human": "Ada"}, {"human": ""})


def test_a_small_change_of_a_long_block_is_told_as_a_diff():
    lines = [f"line {number} with some words in it" for number in range(100)]
    changed = [*lines[:50], "another line 50", *lines[51:]]
    text = note({"notes": "\n".join(lines)}, {"notes": "\n".join(changed)})
    assert "-line 50 with some words in it\n+another line 50" in text
    assert "line 60" not in text
    assert len(text) < 500


def test_a_long_block_written_anew_is_told_whole():
    new = "\n".join(f"new {number}" for number in range(300))
    assert new in note({"notes": "\n".join(f"old {number}" for number in range(300))}, {"notes": new})


@given(seen=STATES, now=STATES)
def test_a_note_is_there_exactly_when_something_changed(seen: dict[str, str], now: dict[str, str]):
    text = blocks_note(seen, now)
    assert (text is None) == (seen == now)
    assert text == blocks_note(dict(reversed(seen.items())), now)
