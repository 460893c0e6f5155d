"""JSON read while it is written: wherever it is cut, the strings grow to what a whole parse gives."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.parsing.partial_json import PartialJson, Path, Run

TEXT = st.text(st.characters(codec=None), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def read(pieces: list[str]) -> tuple[list[Run], PartialJson]:
    parser = PartialJson()
    runs = [run for piece in pieces for run in parser.feed(piece)]
    return [*runs, *parser.finish()], parser


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(at)] or [""]


def grown(runs: list[Run]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for run in runs:
        if run.path is not None:
            found[run.path] = found.get(run.path, "") + run.text
    return found


def strings(value: Any, path: Path = ()) -> dict[Path, str]:
    if isinstance(value, str):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {place: text for key, inner in items for place, text in strings(inner, (*path, key)).items()}


def by_member(runs: list[Run]) -> list[tuple[str, str | None, str]]:
    """(role, member, raw), adjacent ones of a kind joined: what does not depend on the cut."""
    found: list[tuple[str, str | None, str]] = []
    for run in runs:
        if found and found[-1][:2] == (run.role, run.member):
            found[-1] = (run.role, run.member, found[-1][2] + run.raw)
        else:
            found.append((run.role, run.member, run.raw))
    return found


@given(VALUES, st.booleans(), st.sampled_from([None, 2]), st.lists(st.integers(0, 10_000), max_size=12))
def test_the_strings_are_those_of_a_whole_parse_wherever_it_is_cut(
    value: Any, ascii: bool, indent: int | None, places: list[int]
) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    runs, parser = read(cut(text, places))
    assert parser.broken is None and parser.done
    assert "".join(run.raw for run in runs) == text
    assert grown(runs) == strings(json.loads(text))
    assert by_member(runs) == by_member(read([text])[0])


@given(
    st.lists(st.sampled_from([*'{}[],:" \\u0dD8c/n1-e.tfals', "true", '"a":', '{"b', "\n"]), max_size=24).map("".join),
    st.lists(st.integers(0, 100), max_size=6),
)
def test_what_is_not_json_is_told_and_what_is_json_is_not(text: str, places: list[int]) -> None:
    runs, parser = read(cut(text, places))
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse)
    except ValueError:
        assert parser.broken is not None
    else:
        assert parser.broken is None
        seen = strings(value)
        assert {path: said for path, said in grown(runs).items() if path in seen} == seen or _has_a_key_twice(text)
    assert "".join(run.raw for run in runs) == text
    whole, parser_of_whole = read([text])
    assert (parser.broken, by_member(runs), grown(runs)) == (parser_of_whole.broken, by_member(whole), grown(whole))


def _refuse(name: str) -> None:
    raise ValueError(name)


def _has_a_key_twice(text: str) -> bool:
    def check(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal twice
        twice = twice or len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    twice = False
    json.loads(text, strict=False, object_pairs_hook=check)
    return twice


def test_a_string_grows_while_it_is_written_and_escapes_wait_for_their_rest() -> None:
    parser = PartialJson()
    said = [[run.text for run in parser.feed(piece)] for piece in ['{"a": "x', "y\\", "n\\ud8", "3d", "\\ude00z", '"}']]
    assert said == [["", "", "", "x"], ["y"], ["\n"], [""], ["\U0001f600z"], ["", ""]]
    assert parser.done


def test_a_run_says_which_member_it_belongs_to() -> None:
    runs, _ = read(['{"a": {"b": "c"}, "d":', " 1}"])
    assert [(run.role, run.member, run.raw) for run in runs] == [
        ("around", None, "{"),
        ("key", "a", '"a":'),
        ("value", "a", ' {"b": '),
        ("value", "a", '"c"'),
        ("value", "a", "}"),
        ("around", None, ", "),
        ("key", "d", '"d":'),
        ("value", "d", " 1"),
        ("around", None, "}"),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": tru', "at character 6: a number, true, false, null or a string was expected, not 'tru'"),
        ('{"a" 1}', "at character 5: a colon was expected, not '1'"),
        ('{"a": 1,}', "at character 8: a key in quotes was expected, not '}'"),
        ('{"a": "b\\x"}', "at character 8: an escape that JSON knows was expected, not '\\\\x'"),
        ('{"a": "b', "at character 8: it ends before it is complete"),
        ('{"a": 1} and', "at character 9: nothing more was expected, not 'a'"),
        ("", "at character 0: it ends before it is complete"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, why: str) -> None:
    _, parser = read([text])
    assert parser.broken == why
