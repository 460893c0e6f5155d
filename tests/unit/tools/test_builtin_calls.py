"""Arguments: what can be read is read, what cannot is told; nothing is silently dropped. Returns: cut with both numbers."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.errors import ToolError
from perdure.core.messages import ToolCall
from perdure.tools.calls import arguments_of, cut_client_return, truncated

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(arguments: str, **more: Any) -> dict[str, Any]:
    return arguments_of(ToolCall("call-1", "look", arguments), **more)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_was_written_is_read_back(arguments: dict[str, Any]):
    assert read(json.dumps(arguments)) == arguments
    assert read(json.dumps(arguments, ensure_ascii=False, indent=2)) == arguments


@given(st.text())
def test_any_text_is_read_or_refused(text: str):
    try:
        assert isinstance(read(text), dict)
    except ToolError as error:
        assert error.message.startswith("Error executing function look: the arguments could not be read: ")


@pytest.mark.parametrize("text", ["", " \n", "{}", "{}{}"])
def test_no_arguments(text: str):
    assert read(text) == {}


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1}{"a":1}',
        '{"a":1}\n{"a":1}',
        '{}{"a":1}',
        '{"a":1}{}',
        '"{\\"a\\":1}"',
    ],
)
def test_repetition_and_wrapping_lose_nothing(text: str):
    assert read(text) == {"a": 1}


def test_raw_line_ends_and_tabs_in_strings_are_kept():
    assert read('{"code":"if a:\n\tb"}') == {"code": "if a:\n\tb"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a":1}{"a":2}', "they hold 2 JSON values. Make one call for each"),
        ('{"a":1}{"b":2}{"a":1}{"c":3}', "they hold 3 JSON values"),
        ('{"a":', "they are not valid JSON (Expecting value: line 1 column 6"),
        ('{"a":1} and more', "they are not valid JSON (Expecting value"),
        ("{'a': 1}", "they are not valid JSON (Expecting property name"),
        ('{"a":NaN}', "they are not valid JSON (ValueError: NaN is not a JSON number)"),
        ('{"a":"\\ud800"}', "they are not valid JSON"),
        ("[1]", "they are not a JSON object but a list"),
        ("3", "they are not a JSON object but a number"),
        ("null", "they are not a JSON object but null"),
        ("true", "they are not a JSON object but true"),
        ('"text"', "they are not a JSON object but a string"),
        ('{"a":' * 100_000, "they are not valid JSON"),
        ("[" * 100_000, "they are not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_reason(text: str, why: str):
    with pytest.raises(ToolError) as caught:
        read(text)
    assert why in caught.value.message
    assert caught.value.message.endswith("Call the tool again with one JSON object.")
    assert len(caught.value.message) < 500


def test_keys_of_older_agent_types_are_left_out_for_those_only():
    text = '{"request_heartbeat":true,"thinking":"hm","inner_thoughts":"hm","x":1}'
    assert read(text, legacy=True) == {"x": 1}
    assert set(read(text)) == {"request_heartbeat", "thinking", "inner_thoughts", "x"}


@given(st.text(max_size=40), st.integers(1, 40))
def test_a_return_is_whole_or_cut_with_both_numbers(text: str, limit: int):
    cut = truncated(text, limit)
    if len(text) <= limit:
        assert cut == text
    else:
        assert cut.startswith(text[:limit])
        assert cut.endswith(f"it has {len(text)} characters, the limit is {limit}]")


def test_a_clients_return_is_cut_by_the_context_window():
    assert cut_client_return("x" * 5_000, 100) == "x" * 5_000
    assert cut_client_return("x" * 5_003, 100) == "x" * 5_000 + "... [truncated 3 chars]"
    assert cut_client_return("x" * 8_000, 10_000) == "x" * 8_000
    assert cut_client_return("x" * 8_001, 10_000).endswith("[truncated 1 chars]")
