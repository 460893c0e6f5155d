"""Strict tool schemas: what a strict provider lets through is, less its nulls, what the tool's own schema takes."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from perdure.tools.strict import strict_parameters, without_nulls

_leaves = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "description": "a number"},
        {"type": ["boolean", "null"]},
        {"enum": ["a", "b"]},
        {"type": "string", "enum": ["x"], "default": "x"},
        {"const": 7},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#/$defs/Place"},
    ]
)
PLACE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "floor": {"type": "integer"}},
    "required": ["name"],
}


def _object(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def made(properties: dict[str, Any], required: set[str]) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": sorted(required & properties.keys())}

    return st.builds(
        made,
        st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
        st.sets(st.sampled_from("abcd"), max_size=4),
    )


_schemas = st.recursive(
    _leaves, lambda inner: _object(inner) | st.builds(lambda i: {"type": "array", "items": i}, inner), max_leaves=5
)


def _fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a strict schema."""
    if "$ref" in schema:
        return st.fixed_dictionaries({"name": st.just("n"), "floor": st.none() | st.just(1)})
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(_fitting, schema["anyOf"]))
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    made = {
        "string": st.text(max_size=2),
        "integer": st.integers(0, 3),
        "boolean": st.booleans(),
        "null": st.none(),
        "array": st.lists(_fitting(schema["items"]), max_size=2) if "items" in schema else st.nothing(),
        "object": st.fixed_dictionaries({k: _fitting(v) for k, v in schema.get("properties", {}).items()}),
    }
    return st.one_of(*(made[kind] for kind in kinds))


@settings(max_examples=300, deadline=None)
@given(_object(_schemas), st.data())
def test_strict_arguments_without_their_nulls_fit_the_tools_own_schema(
    schema: dict[str, Any], data: st.DataObject
) -> None:
    schema = {**schema, "$defs": {"Place": PLACE}}
    strict = strict_parameters(schema)
    assert strict is not None
    value = data.draw(_fitting(strict))
    assume(Draft202012Validator(strict).is_valid(value))
    assert Draft202012Validator(schema).is_valid(without_nulls(schema, value))


@given(_object(_schemas))
def test_all_of_a_strict_schema_is_closed_and_required(schema: dict[str, Any]) -> None:
    def check(one: Any) -> None:
        if isinstance(one, dict):
            if "properties" in one and isinstance(one.get("type"), str | list):
                assert one["required"] == list(one["properties"]) and one["additionalProperties"] is False
            for inner in one.values():
                check(inner)
        elif isinstance(one, list):
            for inner in one:
                check(inner)

    check(strict_parameters({**schema, "$defs": {"Place": PLACE}}))


def test_an_optional_property_may_be_null() -> None:
    strict = strict_parameters(
        {
            "type": "object",
            "properties": {"a": {"type": "string"}, "n": {"type": "integer", "default": 5}},
            "required": ["a"],
        }
    )
    assert strict == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "n": {"type": ["integer", "null"]}},
        "required": ["a", "n"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "free", [{}, {"type": "object"}, {"type": "object", "additionalProperties": {"type": "string"}}, {"type": "array"}]
)
def test_what_may_hold_anything_has_no_strict_form(free: Any) -> None:
    assert strict_parameters({"type": "object", "properties": {"a": free}}) is None


def test_nulls_that_mean_something_stay() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"]}, "b": {"type": "string"}, "c": {"type": "string"}, "d": {}},
        "required": ["b"],
    }
    given_nulls = {"a": None, "b": None, "c": None, "d": None, "e": None}
    assert without_nulls(schema, given_nulls) == {"a": None, "b": None, "d": None, "e": None}
