"""Schemas from source, schemas from callers, and arguments held against them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.errors import Invalid
from perdure.tools.schema import check_arguments, schema_from_source, validate_json_schema


def of(signature: str, *, args: str = "", before: str = "", doc: str = "Does it.") -> dict[str, Any]:
    """The schema of a one-function source; `args` are the lines of its Args section."""
    lines = "\n".join(f"        {line}" for line in args.splitlines())
    section = f"\n\n    Args:\n{lines}" if args else ""
    return schema_from_source(f'{before}\ndef tool({signature}):\n    """{doc}{section}\n    """\n')


def parameter(annotation: str, before: str = "") -> dict[str, Any]:
    """The schema of one parameter without its description."""
    found = of(f"x: {annotation}", args="x: the x", before=before)["parameters"]["properties"]["x"]
    return {key: value for key, value in found.items() if key != "description"}


def test_a_tool_becomes_a_name_a_description_and_parameters() -> None:
    source = '''
import random

def helper(n):
    return n

def roll(sides: int, times: int = 1) -> int:
    """Roll dice.

    Adds the dice up.

    Args:
        sides (int): how many sides,
            at least two
        times (int): how often

    Returns:
        int: the sum

    Examples:
        >>> roll(6)
        4
    """
    return sum(random.randint(1, sides) for _ in range(times))
'''
    assert schema_from_source(source) == {
        "name": "roll",
        "description": "Roll dice.\n\nAdds the dice up.\n\nExamples:\n    >>> roll(6)\n    4",
        "parameters": {
            "type": "object",
            "properties": {
                "sides": {"type": "integer", "description": "how many sides,\nat least two"},
                "times": {"type": "integer", "description": "how often"},
            },
            "required": ["sides"],
        },
    }


def test_the_last_function_is_the_tool_unless_one_is_named() -> None:
    source = 'def a():\n    """A."""\nasync def b():\n    """B."""\nclass C:\n    def c(self):\n        pass\n'
    assert schema_from_source(source)["name"] == "b"
    assert schema_from_source(source, "a")["description"] == "A."
    with pytest.raises(Invalid, match=r"'c'.*a, b"):
        schema_from_source(source, "c")


def test_the_source_is_never_run() -> None:
    assert schema_from_source('raise SystemExit(1)\ndef f():\n    """F."""\n')["name"] == "f"


def test_self_and_agent_state_are_not_the_models() -> None:
    schema = of('self, agent_state: "AgentState", n: int', args="n: a number")
    assert list(schema["parameters"]["properties"]) == ["n"]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("str", {"type": "string"}),
        ("int", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("'int'", {"type": "integer"}),
        ("Any", {}),
        ("list", {"type": "array", "items": {}}),
        ("List[str]", {"type": "array", "items": {"type": "string"}}),
        ("list[int | None]", {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}),
        ("set[str]", {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        ("tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}),
        ("tuple[int, int]", {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        ("dict", {"type": "object"}),
        ("typing.Dict[str, float]", {"type": "object", "additionalProperties": {"type": "number"}}),
        ("Literal['a', 'b']", {"type": "string", "enum": ["a", "b"]}),
        ("Literal[1, 2]", {"type": "integer", "enum": [1, 2]}),
        ("Literal['a', 1]", {"enum": ["a", 1]}),
        ("Optional[str]", {"type": "string"}),
        ("str | None", {"type": "string"}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("Annotated[int, Field(ge=1, le=6)]", {"type": "integer", "minimum": 1, "maximum": 6}),
    ],
)
def test_types(annotation: str, expected: dict[str, Any]) -> None:
    assert parameter(annotation) == expected


def test_only_what_has_no_default_and_cannot_be_none_is_required() -> None:
    signature = "a: int, b: Optional[int], c: int | None, d: int = 3, *, e: str, f: str = ''"
    schema = of(signature, args="\n".join(f"{name}: it" for name in "abcdef"))
    assert schema["parameters"]["required"] == ["a", "e"]


def test_aliases_and_enums_of_the_source_are_followed() -> None:
    assert parameter("Colour", "Colour = Literal['red', 'blue']") == {"type": "string", "enum": ["red", "blue"]}
    enum = "class Size(str, Enum):\n    SMALL = 's'\n    LARGE = 'l'\n"
    assert parameter("list[Size]", enum) == {"type": "array", "items": {"type": "string", "enum": ["s", "l"]}}


def test_pydantic_models_of_the_source_are_inlined() -> None:
    models = """
class Place(BaseModel):
    '''Where.'''
    city: str = Field(description="its name")
    zip: str | None = None

class Base(BaseModel):
    name: str = Field(..., description="who", min_length=1)

class Person(Base):
    model_config = {}
    age: int = Field(3, ge=0)
    places: list[Place] = Field(default_factory=list, max_length=2)
    boss: Optional["Person"]
"""
    schema = parameter("Person", models)
    assert schema["required"] == ["name", "boss"]
    assert schema["properties"]["name"] == {"type": "string", "description": "who", "minLength": 1}
    assert schema["properties"]["age"] == {"type": "integer", "minimum": 0, "default": 3}
    assert schema["properties"]["places"]["maxItems"] == 2
    assert schema["properties"]["places"]["items"] == {
        "type": "object",
        "description": "Where.",
        "properties": {
            "city": {"type": "string", "description": "its name"},
            "zip": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["city"],
    }
    assert schema["properties"]["boss"]["anyOf"][0]["type"] == "object"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:", "not valid Python, line 1"),
        ("x = 1", "defines no function"),
        ("def f(): pass", "no docstring"),
        ('def f(n):\n    """F.\n\n    Args:\n        n: x\n    """', "'n' of f has no type annotation"),
        ('def f(n: int):\n    """F."""', "'n' of f has no description"),
        ('def f(n: complex):\n    """F.\n\n    Args:\n        n: x\n    """', "'complex' is not supported"),
        (
            'def f(n: Place):\n    """F.\n\n    Args:\n        n: x\n    """\nclass Place: pass',
            "class Place is neither",
        ),
        ('def f(*args: int):\n    """F."""', r"\*args of f"),
        ('def f(n: int, /):\n    """F.\n\n    Args:\n        n: x\n    """', "positional-only"),
        ('def größe():\n    """F."""', "letters a-z"),
        (f'def {"f" * 49}():\n    """F."""', "49 characters"),
        ("\0", "not valid Python"),
        ("(" * 5000, "not valid Python"),
    ],
)
def test_a_source_that_will_not_do_is_told_what_to_add(source: str, message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        schema_from_source(source)
    assert caught.value.status == 400


def test_models_that_double_at_every_level_are_refused() -> None:
    models = "".join(f"class M{n}(BaseModel):\n    a: M{n + 1}\n    b: M{n + 1}\n" for n in range(40))
    with pytest.raises(Invalid, match="parts when written out"):
        parameter("M0", models + "class M40(BaseModel):\n    x: int\n")


def test_a_given_schema_of_the_arguments_stands_for_annotations_and_docstring() -> None:
    given_schema = {
        "type": "object",
        "properties": {"who": {"$ref": "#/$defs/Who", "description": "whom"}},
        "required": ["who"],
        "$defs": {"Who": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Who"}}}},
    }
    schema = schema_from_source("def f(who): pass", args_json_schema=given_schema)
    who = {"type": "object", "properties": {"next": {"type": "object"}}, "description": "whom"}
    assert schema["parameters"] == {"type": "object", "properties": {"who": who}, "required": ["who"]}


def test_definitions_that_double_at_every_level_are_refused() -> None:
    parts = {f"D{n}": {"properties": {x: {"$ref": f"#/$defs/D{n + 1}"} for x in "ab"}} for n in range(40)}
    with pytest.raises(Invalid, match="parts when its definitions"):
        validate_json_schema({"name": "f", "parameters": {"properties": {"x": {"$ref": "#/$defs/D0"}}, "$defs": parts}})


def test_a_callers_schema_is_completed() -> None:
    assert validate_json_schema({"name": "f", "strict": True}) == {
        "name": "f",
        "strict": True,
        "description": "",
        "parameters": {"type": "object", "properties": {}, "required": []},
    }


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "must be an object"),
        ({}, r"json_schema\.name"),
        ({"name": "a b"}, r"json_schema\.name"),
        ({"name": "f" * 49}, "49 characters"),
        ({"name": "f", "description": 3}, r"json_schema\.description"),
        ({"name": "f", "parameters": []}, None),
        ({"name": "f", "parameters": [1]}, r"json_schema\.parameters"),
        ({"name": "f", "parameters": {"type": "array"}}, r"json_schema\.parameters\.type"),
        ({"name": "f", "parameters": {"properties": []}}, r"json_schema\.parameters\.properties"),
        ({"name": "f", "parameters": {"properties": {"x": 3}}}, r"properties\.x"),
        ({"name": "f", "parameters": {"required": "x"}}, r"json_schema\.parameters\.required"),
        ({"name": "f", "parameters": {"required": ["x"]}}, "x not among the properties"),
    ],
)
def test_a_callers_schema_that_will_not_do(schema: Any, message: str | None) -> None:
    if message is None:
        assert validate_json_schema(schema)["parameters"]["type"] == "object"
        return
    with pytest.raises(Invalid, match=message):
        validate_json_schema(schema)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "place": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "either": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
        "ref": {"$ref": "#/$defs/Ref"},
    },
    "required": ["n"],
    "$defs": {"Ref": {"const": "x"}},
}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"n": 1}, None),
        ({"n": 1.0}, None),
        ({"n": 1, "kind": None}, None),
        ({"n": 1, "kind": "a", "tags": ["t"], "place": {"city": "c"}, "either": [1], "ref": "x"}, None),
        ({}, "the required argument 'n' is missing"),
        ({"n": None}, "argument 'n' must be an integer, not null"),
        ({"n": "5"}, "argument 'n' must be an integer, not the string '5'"),
        ({"n": True}, "argument 'n' must be an integer, not true"),
        ({"n": 1, "kind": "c"}, "argument 'kind' must be one of 'a', 'b', not the string 'c'"),
        ({"n": 1, "tags": "t"}, "argument 'tags' must be an array, not the string 't'"),
        ({"n": 1, "tags": ["t", 2]}, "argument 'tags'[1] must be a string, not the number 2"),
        ({"n": 1, "place": {}}, "argument 'place' lacks 'city'"),
        ({"n": 1, "place": {"city": "c", "x": 1}}, "argument 'place' must not have 'x' (it may have: city)"),
        ({"n": 1, "either": "x"}, "argument 'either' must be an integer or an array, not the string 'x'"),
        ({"n": 1, "either": ["x"]}, "argument 'either'[0] must be an integer, not the string 'x'"),
        ({"n": 1, "ref": "y"}, "argument 'ref' must be 'x', not the string 'y'"),
    ],
)
def test_arguments_are_held_against_the_schema(args: dict[str, Any], message: str | None) -> None:
    assert check_arguments(SCHEMA, args) == message
    assert check_arguments({"name": "f", "description": "", "parameters": SCHEMA}, args) == message


def test_an_unknown_argument_is_named_with_those_there_are() -> None:
    schema = {"type": "object", "properties": {"a": {}, "b": {}}}
    assert check_arguments(schema, {"c": 1}) == "there is no argument 'c' (arguments of this tool: a, b)"
    assert check_arguments({"type": "object", "properties": {}}, {"c": 1}) is not None
    assert check_arguments({**schema, "additionalProperties": True}, {"c": 1}) is None
    assert check_arguments({"type": "object"}, {"c": 1}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    schema=st.dictionaries(st.sampled_from(["type", "properties", "required", "enum", "anyOf", "$ref"]), JSON),
    args=JSON,
)
def test_no_schema_however_odd_breaks_the_check(schema: dict[str, Any], args: Any) -> None:
    """A schema that a caller stored earlier must not be able to fail a run."""
    outcome = check_arguments({"properties": {"x": schema}}, {"x": args})
    assert outcome is None or isinstance(outcome, str)
