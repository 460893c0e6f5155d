"""JSON Schema (draft 2020-12), as far as a value can be checked without looking anything up.

`problems` says what is wrong with a value, for the model that wrote it. Invariant: a schema that `unsupported` finds nothing
in is checked in full, but for `format`, which is an annotation.
"""

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, cast

MAX_DEPTH = 64
_MAX_SHOWN = 60
_REFUSED = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems", "contentSchema")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}
_ONE_SCHEMA = ("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def problems(schema: Any, value: Any, *, where: str = "the answer") -> Iterator[str]:
    """What is wrong with a value decoded from JSON, in words; nothing if it fits."""
    return _problems(schema, value, where, schema, 0)


def unsupported(schema: Any) -> str | None:
    """Why values cannot be checked against the schema; None if they can."""
    return next(_unsupported(schema, schema, "", 0), None)


def _unsupported(schema: Any, root: Any, where: str, depth: int) -> Iterator[str]:
    at = f" at {where}" if where else ""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield f"a schema must be an object{at}, not {type(schema).__name__}"
        return
    if depth > MAX_DEPTH:
        yield "it is nested too deeply"
        return
    held = cast(dict[str, Any], schema)
    for key in _REFUSED:
        if key in held:
            yield f"{key}{at} cannot be checked here"
    if "$ref" in held and resolved(held["$ref"], root) is None:
        yield f"$ref{at} must point into the schema itself, like '#/$defs/Name', not {held['$ref']!r}"
    for pattern in (held.get("pattern"), *_dict(held.get("patternProperties"))):
        if isinstance(pattern, str) and _compiled(pattern) is None:
            yield f"the pattern {pattern!r}{at} is not a valid regular expression"
    for key in _ONE_SCHEMA:
        if key in held:
            yield from _unsupported(held[key], root, f"{where}/{key}", depth + 1)
    for key in _SCHEMA_LISTS:
        for index, inner in enumerate(_list(held.get(key))):
            yield from _unsupported(inner, root, f"{where}/{key}/{index}", depth + 1)
    for key in _SCHEMA_MAPS:
        for name, inner in _dict(held.get(key)).items():
            yield from _unsupported(inner, root, f"{where}/{key}/{name}", depth + 1)


def _problems(schema: Any, value: Any, where: str, root: Any, depth: int) -> Iterator[str]:
    if schema is False:
        yield f"{where} must not be there"
    if not isinstance(schema, dict):
        return
    if depth > MAX_DEPTH:
        yield f"{where} is nested too deeply"
        return
    held = cast(dict[str, Any], schema)
    if "$ref" in held:
        yield from _problems(resolved(held["$ref"], root), value, where, root, depth + 1)
    names = [held["type"]] if isinstance(held.get("type"), str) else _list(held.get("type"))
    if names and not any(is_a(value, name) for name in names):
        yield f"{where} must be {' or '.join(names)}, not {shown(value)}"
        return
    if isinstance(held.get("enum"), list) and not any(same(value, one) for one in held["enum"]):
        yield f"{where} must be one of {', '.join(map(shown, held['enum']))}, not {shown(value)}"
    if "const" in held and not same(value, held["const"]):
        yield f"{where} must be {shown(held['const'])}, not {shown(value)}"
    yield from _combined(held, value, where, root, depth)
    if isinstance(value, str):
        yield from _text(held, value, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(held, value, where)
    elif isinstance(value, list | tuple):
        yield from _array(held, list(cast(list[Any], value)), where, root, depth)
    elif isinstance(value, dict):
        yield from _object(held, cast(dict[str, Any], value), where, root, depth)


def _combined(schema: dict[str, Any], value: Any, where: str, root: Any, depth: int) -> Iterator[str]:
    def fits(one: Any) -> bool:
        return next(_problems(one, value, where, root, depth + 1), None) is None

    for part in _list(schema.get("allOf")):
        yield from _problems(part, value, where, root, depth + 1)
    if (choices := _list(schema.get("anyOf"))) and not any(map(fits, choices)):
        found = [list(_problems(one, value, where, root, depth + 1)) for one in choices]
        yield f"{where} fits none of {len(choices)} choices; nearest: {'; '.join(min(found, key=len))}"
    if choices := _list(schema.get("oneOf")):
        count = sum(map(fits, choices))
        if count == 0:
            found = [list(_problems(one, value, where, root, depth + 1)) for one in choices]
            yield f"{where} fits none of {len(choices)} choices; nearest: {'; '.join(min(found, key=len))}"
        elif count > 1:
            yield f"{where} fits {count} choices where it must fit one"
    if "not" in schema and fits(schema["not"]):
        yield f"{where} is what it must not be"
    if "if" in schema:
        branch = schema.get("then" if fits(schema["if"]) else "else", True)
        yield from _problems(branch, value, where, root, depth + 1)


def _text(schema: dict[str, Any], value: str, where: str) -> Iterator[str]:
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) and len(value) < least:
        yield f"{where} must have at least {least} characters"
    if isinstance(most, int) and len(value) > most:
        yield f"{where} must have at most {most} characters"
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and (made := _compiled(pattern)) is not None and not made.search(value):
        yield f"{where} must match the pattern {pattern!r}, and {shown(value)} does not"


_BOUNDS: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("minimum", "at least", lambda value, bound: value >= bound),
    ("maximum", "at most", lambda value, bound: value <= bound),
    ("exclusiveMinimum", "more than", lambda value, bound: value > bound),
    ("exclusiveMaximum", "less than", lambda value, bound: value < bound),
)


def _number(schema: dict[str, Any], value: float, where: str) -> Iterator[str]:
    for key, words, holds in _BOUNDS:
        bound = schema.get(key)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and not holds(value, bound):
            yield f"{where} must be {words} {bound}, not {value}"
    unit = schema.get("multipleOf")
    if isinstance(unit, int | float) and unit and abs(value / unit - round(value / unit)) > 1e-9:
        yield f"{where} must be a multiple of {unit}, not {value}"


def _array(schema: dict[str, Any], value: list[Any], where: str, root: Any, depth: int) -> Iterator[str]:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if isinstance(least, int) and len(value) < least:
        yield f"{where} must have at least {least} items, not {len(value)}"
    if isinstance(most, int) and len(value) > most:
        yield f"{where} must have at most {most} items, not {len(value)}"
    if schema.get("uniqueItems") is True and any(same(a, b) for a, b in combinations(value, 2)):
        yield f"{where} must not have an item twice"
    first = _list(schema.get("prefixItems"))
    for at, item in enumerate(value):
        inner = first[at] if at < len(first) else schema.get("items", True)
        yield from _problems(inner, item, f"{where}[{at}]", root, depth + 1)
    if "contains" in schema:
        held = sum(next(_problems(schema["contains"], item, where, root, depth + 1), None) is None for item in value)
        if held < schema.get("minContains", 1) or held > schema.get("maxContains", held):
            yield f"{where} has {held} items of the kind it must contain"


def _object(schema: dict[str, Any], value: dict[str, Any], where: str, root: Any, depth: int) -> Iterator[str]:
    for name in _list(schema.get("required")):
        if name not in value:
            yield f"{where} lacks {name!r}"
    least, most = schema.get("minProperties"), schema.get("maxProperties")
    if isinstance(least, int) and len(value) < least:
        yield f"{where} must have at least {least} members, not {len(value)}"
    if isinstance(most, int) and len(value) > most:
        yield f"{where} must have at most {most} members, not {len(value)}"
    for name, needed in _dict(schema.get("dependentRequired")).items():
        if name in value and (missing := [one for one in _list(needed) if one not in value]):
            yield f"{where} has {name!r} and so must have {', '.join(map(repr, missing))}"
    for name, inner in _dict(schema.get("dependentSchemas")).items():
        if name in value:
            yield from _problems(inner, value, where, root, depth + 1)
    known, patterns = _dict(schema.get("properties")), _dict(schema.get("patternProperties"))
    extra = schema.get("additionalProperties", True)
    for name, item in value.items():
        place = f"{where}.{name}"
        if "propertyNames" in schema:
            yield from _problems(schema["propertyNames"], name, f"the name {name!r}", root, depth + 1)
        matched = [inner for pattern, inner in patterns.items() if (p := _compiled(pattern)) and p.search(name)]
        for inner in (*([known[name]] if name in known else ()), *matched):
            yield from _problems(inner, item, place, root, depth + 1)
        if name in known or matched:
            continue
        if extra is False:
            yield f"{where} must not have {name!r} (it may have: {', '.join(known) or 'nothing'})"
        else:
            yield from _problems(extra, item, place, root, depth + 1)


def is_a(value: Any, name: str) -> bool:
    if name == "integer":
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, _TYPES[name]) if name in _TYPES else True


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: true is not 1, at any depth."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        left, right = cast(dict[str, Any], a), cast(dict[str, Any], b)
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        first, second = cast(list[Any], a), cast(list[Any], b)
        return len(first) == len(second) and all(map(same, first, second))
    return a == b


def resolved(reference: Any, root: Any) -> Any:
    """What a reference into the same document points at; None if there is nothing."""
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        return None
    found: Any = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = cast(dict[str, Any], found).get(key)
        elif isinstance(found, list) and key.isdigit() and int(key) < len(cast(list[Any], found)):
            found = cast(list[Any], found)[int(key)]
        else:
            return None
    return found


def shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _dict(value: Any) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []
