"""Strict tool schemas: every property required, optional ones nullable, nothing else allowed.

Providers that are told a schema is strict hold the model to it. Invariant: `without_nulls` of arguments that fit the strict
schema are arguments that fit the schema it was made from.
"""

from typing import Any, cast

from perdure.tools.json_schema import resolved

MAX_DEPTH = 32


def strict_parameters(parameters: dict[str, Any]) -> dict[str, Any] | None:
    """The schema in strict form; None if it has none, because an object of it may hold anything."""
    try:
        return _strict(parameters, 0)
    except ValueError:
        return None


def _strict(schema: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        raise ValueError("no strict form")
    held = dict(cast(dict[str, Any], schema))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if isinstance(held.get(key), list):
            held[key] = [_strict(inner, depth + 1) for inner in held[key]]
    if "oneOf" in held:  # strict mode knows only anyOf
        held["anyOf"] = held.pop("oneOf")
    for key in ("$defs", "definitions"):
        if isinstance(held.get(key), dict):
            held[key] = {name: _strict(inner, depth + 1) for name, inner in held[key].items()}
    if "items" in held:
        held["items"] = _strict(held["items"], depth + 1)
    kinds = held.get("type")
    if kinds == "object" or "properties" in held or (isinstance(kinds, list) and "object" in kinds):
        _close(held, depth)
    elif not held.keys() & {"type", "enum", "const", "anyOf", "allOf", "$ref"} or _holds_anything(held):
        raise ValueError("no strict form")
    held.pop("default", None)
    return held


def _holds_anything(held: dict[str, Any]) -> bool:
    return held.get("type") == "array" and "items" not in held


def _close(held: dict[str, Any], depth: int) -> None:
    properties = held.get("properties")
    if held.get("additionalProperties") or (depth > 0 and not properties) or held.get("patternProperties"):
        raise ValueError("no strict form")
    given: dict[str, Any] = properties or {}
    required: list[str] = held.get("required") or []
    held["properties"] = {
        name: _strict(inner, depth + 1) if name in required else _nullable(_strict(inner, depth + 1))
        for name, inner in given.items()
    }
    held["required"] = list(given)
    held["additionalProperties"] = False


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if allows_null(schema):
        return schema
    kind = schema.get("type")
    if kind is not None and "const" not in schema:
        changed = {**schema, "type": [*kind, "null"] if isinstance(kind, list) else [kind, "null"]}
        if isinstance(schema.get("enum"), list):
            changed["enum"] = [*schema["enum"], None]
        return changed
    described = {key: schema[key] for key in ("description", "title") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in described}
    return {"anyOf": [inner, {"type": "null"}], **described}


def allows_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return True
    held = cast(dict[str, Any], schema)
    kind = held.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return True
    choices = held.get("anyOf") or held.get("oneOf")
    if isinstance(choices, list):
        return any(allows_null(choice) for choice in cast(list[Any], choices))
    if isinstance(held.get("enum"), list):
        return None in held["enum"]
    return not held.keys() & {"type", "$ref", "const", "allOf", "properties"}


def without_nulls(schema: Any, value: Any, root: Any = None, depth: int = 0) -> Any:
    """`value` without the nulls that stand for optional members left out; what the schema lets be null stays."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return value
    held = _deref(cast(dict[str, Any], schema), root)
    if isinstance(value, list):
        return [without_nulls(held.get("items"), item, root, depth + 1) for item in cast(list[Any], value)]
    if not isinstance(value, dict) or not isinstance(held.get("properties"), dict):
        return value
    known = cast(dict[str, Any], held["properties"])
    required: list[str] = held.get("required") or []
    return {
        name: without_nulls(known.get(name), item, root, depth + 1)
        for name, item in cast(dict[str, Any], value).items()
        if item is not None or name not in known or name in required or allows_null(_deref(known[name], root))
    }


def _deref(schema: Any, root: Any) -> Any:
    if isinstance(schema, dict) and "$ref" in schema:
        return resolved(cast(dict[str, Any], schema)["$ref"], root) or {}
    return schema
