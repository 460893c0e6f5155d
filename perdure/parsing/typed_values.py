"""Argument values that a model writes as bare text, as JSON of the type its tool's schema asks for.

Invariant: every text has a value; what is no JSON of a wanted type stays a string, and validation says what is wrong with it.
"""

import json
from collections.abc import Mapping
from typing import Any

_PYTHON = {"True": "true", "False": "false", "None": "null"}
_DEPTH = 8


class ValueTypes:
    """For the parameters of one tool; `schema` is its JSON schema, None if the tool is not known."""

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        self._schema: Mapping[str, Any] = schema or {}

    def is_text(self, key: str) -> bool:
        """Whether the value can be nothing but a string, so that it need not be seen whole."""
        return self._wanted(key) == {"string"}

    def as_json(self, key: str, text: str) -> str:
        wanted = self._wanted(key)
        if wanted == {"string"}:
            return quoted(text)
        written = text.strip()
        written = _PYTHON.get(written, written)
        kind = _kind(written)
        if kind is None or (wanted is not None and kind not in wanted and "string" in wanted):
            return quoted(text)
        return quoted(text) if kind == "string" and wanted is None else written

    def _wanted(self, key: str) -> set[str] | None:
        properties = self._schema.get("properties")
        if not isinstance(properties, Mapping) or key not in properties:
            return None
        return _types(properties[key], self._schema, 0)


def quoted(text: str) -> str:
    """A text as JSON. Half a surrogate pair is escaped, so that the JSON itself is text."""
    return json.dumps(text, ensure_ascii=False)


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> set[str] | None:
    """The JSON types a schema allows; None: it does not say."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return None
    if "$ref" in schema:
        return _types(_target(schema["$ref"], root), root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, str):
        return _widened({kind})
    if isinstance(kind, list):
        return _widened({one for one in kind if isinstance(one, str)})
    if "const" in schema:
        return {_kind_of(schema["const"])}
    if isinstance(schema.get("enum"), list):
        return {_kind_of(one) for one in schema["enum"]}
    for choice in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(choice), list):
            found = [_types(one, root, depth + 1) for one in schema[choice]]
            return None if None in found or not found else set[str]().union(*(one for one in found if one))
    return {"object"} if "properties" in schema else None


def _widened(kinds: set[str]) -> set[str] | None:
    """A number may be written as an integer; an integer as 1.0."""
    return (kinds | {"integer", "number"} if kinds & {"integer", "number"} else kinds) or None


def _target(reference: Any, root: Mapping[str, Any]) -> Any:
    target: Any = root
    for step in str(reference).removeprefix("#/").split("/"):
        target = target.get(step) if isinstance(target, Mapping) else None
    return target


def _kind(written: str) -> str | None:
    """The type of a JSON text; None if it is none."""
    try:
        return _kind_of(json.loads(written, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _kind_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case list():
            return "array"
        case _:
            return "object"
