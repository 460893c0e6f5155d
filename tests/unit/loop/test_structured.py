"""When an answer has the form that was asked for."""

import pytest

from perdure.loop.structured import problem

FORM = {
    "type": "json_schema",
    "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
}


@pytest.mark.parametrize("text", ['{"a": 1}', ' \n{"a": 1}\n', '{"a": 1, "b": null}'])
def test_a_fitting_answer(text: str) -> None:
    assert problem(FORM, text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("I cannot.", "it is not valid JSON"),
        ('```json\n{"a": 1}\n```', "it is not valid JSON"),
        ('{"a": NaN}', "it is not valid JSON"),
        ('{"a": 1} {"a": 2}', "it is not valid JSON"),
        ("[" * 100_000, "it is not valid JSON"),
        ("{}", "the answer lacks 'a'"),
        ('{"a": "1"}', "the answer.a must be integer"),
    ],
)
def test_what_is_wrong_with_an_answer(text: str, told: str) -> None:
    assert told in (problem(FORM, text) or "")


def test_any_object_will_do_where_no_schema_is_given() -> None:
    assert problem({"type": "json_object"}, "{}") is None
    assert problem({"type": "json_object"}, "[]") == "it is JSON, but not an object"


def test_text_may_be_anything() -> None:
    assert problem({"type": "text"}, "") is None
