"""Thinking between tags in the text of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.providers.think_tags import Kind, ThinkTags, tagged


def read(*pieces: str) -> dict[Kind, str]:
    tags = ThinkTags()
    found: dict[Kind, str] = {}
    for piece in [*pieces, None]:
        for kind, text in tags.finish() if piece is None else tags.feed(piece):
            assert text
            found[kind] = found.get(kind, "") + text
    return found


@pytest.mark.parametrize(
    ("written", "thinking", "text"),
    [
        ("<think>\nHm.\n</think>\n\nHi.", "Hm.", "Hi."),
        ("<think>Hm.</think>Hi.", "Hm.", "Hi."),
        ("\n<think>\n\na\n\n</think>\n\n\nb\n", "\na\n", "\nb\n"),
        ("Hi <think>no</think>", "", "Hi <think>no</think>"),
        ("<thinking> is hard", "", "<thinking> is hard"),
        ("<", "", "<"),
        ("<think></think>\n\nHi.", "", "Hi."),
        ("<think>\ncut off in thou", "cut off in thou", ""),
        ("<think>a</thi", "a</thi", ""),
        ("<think>x < y </th</think>ok", "x < y </th", "ok"),
        ("", "", ""),
    ],
)
def test_thinking_is_told_apart_however_it_is_cut(written: str, thinking: str, text: str) -> None:
    whole = {kind: what for kind, what in (("thinking", thinking), ("text", text)) if what}
    assert read(written) == whole
    assert read(*written) == whole
    for at in range(len(written)):
        assert read(written[:at], written[at:]) == whole


SAFE = st.text(alphabet="ab <>/\nthink", max_size=30)


@given(thinking=SAFE, text=SAFE)
def test_what_is_put_back_between_tags_is_read_again(thinking: str, text: str) -> None:
    if not thinking or "</think>" in thinking or not text or text.startswith("\n") or thinking != thinking.strip("\n"):
        return
    assert read(tagged(thinking, text)) == {"thinking": thinking, "text": text}


def test_an_answer_without_thinking_has_no_tags() -> None:
    assert tagged("", "Hi.") == "Hi."
