"""Our JSON Schema checks agree with the reference validator, and speak of what is wrong in words."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from perdure.tools.json_schema import problems, unsupported

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -2.5]) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
_types = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
_small = st.integers(0, 3)
_bound = st.integers(-2, 2)


def _extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    members = st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    several = st.lists(inner, min_size=1, max_size=2)
    names = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": _types | st.lists(_types, min_size=1, max_size=3, unique=True),
            "enum": st.lists(_values, min_size=1, max_size=3),
            "const": _values,
            "anyOf": several,
            "oneOf": several,
            "allOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "minLength": _small,
            "maxLength": _small,
            "pattern": st.sampled_from(["^a", "b$", "a+b"]),
            "minimum": _bound,
            "maximum": _bound,
            "exclusiveMinimum": _bound,
            "exclusiveMaximum": _bound,
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "minItems": _small,
            "maxItems": _small,
            "uniqueItems": st.booleans(),
            "items": inner,
            "prefixItems": several,
            "contains": inner,
            "properties": members,
            "patternProperties": st.dictionaries(st.sampled_from(["a", "^b"]), inner, max_size=1),
            "additionalProperties": inner,
            "propertyNames": inner,
            "required": names,
            "minProperties": _small,
            "maxProperties": _small,
            "dependentRequired": st.dictionaries(st.sampled_from("abc"), names, max_size=1),
            "dependentSchemas": st.dictionaries(st.sampled_from("abc"), inner, max_size=1),
        },
    )


_schemas = st.recursive(st.booleans() | st.builds(lambda kind: {"type": kind}, _types), _extend, max_leaves=6)


@settings(max_examples=1500, deadline=None)
@given(_schemas, _values)
def test_a_value_fits_exactly_where_the_reference_validator_says_so(schema: Any, value: Any) -> None:
    assert unsupported(schema) is None
    assert (not list(problems(schema, value))) == Draft202012Validator(schema).is_valid(value)


TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "inner": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}


def test_a_schema_may_refer_to_itself() -> None:
    assert list(problems(TREE, {"name": "a", "inner": [{"name": "b"}]})) == []
    assert list(problems(TREE, {"name": "a", "inner": [{"nam": "b"}]})) == [
        "the answer.inner[0] lacks 'name'",
        "the answer.inner[0] must not have 'nam' (it may have: name, inner)",
    ]


@pytest.mark.parametrize(
    ("schema", "value", "told"),
    [
        ({"type": "integer"}, "1", "the answer must be integer, not '1'"),
        ({"type": ["string", "null"]}, True, "the answer must be string or null, not true"),
        ({"enum": ["a", None]}, "b", "the answer must be one of 'a', null, not 'b'"),
        ({"properties": {"n": {"minimum": 3}}}, {"n": 2}, "the answer.n must be at least 3, not 2"),
        ({"items": {"maxLength": 1}}, ["ab"], "the answer[0] must have at most 1 characters"),
        ({"anyOf": [{"type": "string"}, {"required": ["a"]}]}, {}, "nearest: the answer must be string"),
        ({"properties": {"a": False}}, {"a": 1}, "the answer.a must not be there"),
    ],
)
def test_what_is_wrong_is_said_in_words(schema: Any, value: Any, told: str) -> None:
    assert told in "; ".join(problems(schema, value))


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"$ref": "https://elsewhere.test/schema"}, "$ref must point into the schema itself"),
        ({"properties": {"a": {"$ref": "#/$defs/Gone"}}}, "$ref at /properties/a"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties cannot be checked here"),
        ({"pattern": "("}, "not a valid regular expression"),
        ({"items": 3}, "a schema must be an object at /items, not int"),
    ],
)
def test_a_schema_that_cannot_be_checked_says_why(schema: Any, told: str) -> None:
    assert told in (unsupported(schema) or "")


def test_a_schema_without_end_ends() -> None:
    assert list(problems({"$ref": "#"}, 1)) == ["the answer is nested too deeply"]
