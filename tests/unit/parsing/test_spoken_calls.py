"""Calls of older agent types, taken apart while they arrive: the same however they are cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.parsing.spoken_calls import Piece, SpokenCall, joined


def taken(pieces: list[str], speech: str | None = None, thoughts: str | None = "thinking") -> list[Piece]:
    call = SpokenCall(thoughts, speech)
    found = [piece for text in pieces for piece in call.feed(text)]
    return joined([*found, *call.finish()])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"thinking": "Hm.", "a": 1}', [("thoughts", "Hm."), ("arguments", '{"a": 1}')]),
        ('{"a": 1, "thinking": "Hm.", "b": [2]}', [("arguments", '{"a": 1'), ("thoughts", "Hm."), ("arguments", ', "b": [2]}')]),
        ('{ "a" : 1 , "thinking":"\\ud83d\\ude00" }', [("arguments", '{ "a" : 1'), ("thoughts", "😀"), ("arguments", " }")]),
        ('{"thinking": "Hm."}', [("thoughts", "Hm."), ("arguments", "{}")]),
        ('{"thinking": {"x": "y"}}', [("thoughts", '{"x": "y"}'), ("arguments", "{}")]),
        ('{"thinking": "\\ud800!", "a": 1}', [("thoughts", "\ufffd!"), ("arguments", '{"a": 1}')]),
        ("", [("arguments", "")]),
        ('{"a": 1', [("arguments", '{"a": 1')]),
        ('{"thinking": "Hm.", oops', [("thoughts", "Hm."), ("arguments", "{, oops")]),
        ('["thinking"]', [("arguments", '["thinking"]')]),
        ('{"in": {"thinking": "x"}}', [("arguments", '{"in": {"thinking": "x"}}')]),
    ],
)  # fmt: skip
def test_thinking_is_told_apart_from_the_arguments(text: str, shown: list[Piece]) -> None:
    assert taken([text]) == taken(list(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"message": "Hi\\n", "request_heartbeat": false}', [("speech", "Hi\n")]),
        ('{"message": "Hi", "thinking": "Hm."}', [("speech", "Hi"), ("thoughts", "Hm.")]),
        ('{"thinking": "Hm.", "message": {"boats": [3]}}', [("thoughts", "Hm."), ("speech", '{"boats": [3]}')]),
        ('{"message": "Cut o', [("speech", "Cut o")]),
        ('{"message": ""}', [("speech", "")]),
        ('{"text": "Hi"}', [("arguments", '{"text": "Hi"}')]),
        ("nonsense", [("arguments", "nonsense")]),
    ],
)
def test_speech_comes_as_it_is_written_and_a_call_without_any_is_shown_whole(text: str, shown: list[Piece]) -> None:
    assert taken([text], "message") == taken(list(text), "message") == shown


@given(
    st.dictionaries(
        st.sampled_from(["thinking", "message", "a", "b", "request_heartbeat"]),
        st.text('ab\u00e9\U0001f600"\\ ,}\n', max_size=8) | st.booleans() | st.lists(st.integers(0, 9), max_size=3),
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_without_the_thinking_the_arguments_are_the_same_json(
    value: dict[str, object], ascii: bool, indent: int | None, places: list[int]
) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    at = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    pieces = [text[start:end] for start, end in pairwise(at)]
    found = taken(pieces)
    assert found == taken([text])
    arguments = "".join(said for kind, said in found if kind == "arguments")
    assert json.loads(arguments) == {key: each for key, each in value.items() if key != "thinking"}
    thinking = value.get("thinking", "")
    said = "".join(said for kind, said in found if kind == "thoughts")
    assert said == thinking if isinstance(thinking, str) else json.loads(said) == thinking
