"""Checks a tool call's arguments against the tool's schema, lightly, and tells the model what to change.

A schema may say more than is checked here; what is not understood is let through, and the tool itself decides.
"""

from collections.abc import Iterator
from typing import Any

_MAX_PROBLEMS = 5
_MAX_DEPTH = 32
_MAX_SHOWN = 60
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}
_ARTICLES = {"integer": "an integer", "array": "an array", "object": "an object", "null": "null"}


def check_arguments(schema: dict[str, Any], args: dict[str, Any]) -> str | None:
    """`schema`: of the parameters, or a whole tool's {name, description, parameters}. A message for the model, or None."""
    if "properties" not in schema and isinstance(schema.get("parameters"), dict):
        schema = schema["parameters"]
    problems: list[str] = []
    for problem in _top_level(schema, args):
        problems.append(problem)
        if len(problems) == _MAX_PROBLEMS:
            break
    return "; ".join(problems) or None


def _top_level(schema: dict[str, Any], args: dict[str, Any]) -> Iterator[str]:
    properties = schema.get("properties")
    known: dict[str, Any] = properties if isinstance(properties, dict) else {}
    required = _names(schema.get("required"))
    for name in required:
        if name not in args:
            yield f"the required argument {name!r} is missing"
    extra = schema.get("additionalProperties", isinstance(properties, dict) is False)
    for name, value in args.items():
        if name in known:
            if value is None and name not in required:
                continue  # as good as leaving it out
            yield from _problems(known[name], value, f"argument {name!r}", schema, 0)
        elif not extra and extra != {}:
            takes = ", ".join(known) if known else "none"
            yield f"there is no argument {name!r} (arguments of this tool: {takes})"


def _problems(schema: Any, value: Any, where: str, root: dict[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return
    if isinstance(reference := schema.get("$ref"), str):
        yield from _problems(_resolved(reference, root), value, where, root, depth + 1)
        return
    choices = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(choices, list) and choices:
        yield from _choice_problems(choices, value, where, root, depth)
    for part in parts if isinstance(parts := schema.get("allOf"), list) else []:
        yield from _problems(part, value, where, root, depth + 1)
    names = _names(schema.get("type"))
    if names and not any(_is_a(value, name) for name in names):
        wanted = " or ".join(_ARTICLES.get(name, f"a {name}") for name in names)
        yield f"{where} must be {wanted}, not {_shown(value)}"
        return
    if isinstance(allowed := schema.get("enum"), list) and not _is_one_of(value, allowed):
        yield f"{where} must be one of {', '.join(_literal(one) for one in allowed)}, not {_shown(value)}"
    if "const" in schema and not _is_one_of(value, [schema["const"]]):
        yield f"{where} must be {_literal(schema['const'])}, not {_shown(value)}"
    if isinstance(value, dict):
        yield from _object_problems(schema, value, where, root, depth)
    elif isinstance(value, list | tuple) and "items" in schema:
        for at, item in enumerate(value):
            yield from _problems(schema["items"], item, f"{where}[{at}]", root, depth + 1)


def _choice_problems(choices: list[Any], value: Any, where: str, root: dict[str, Any], depth: int) -> Iterator[str]:
    """None if any fits; else what is wrong with the one that is nearest, by its type."""
    found = [list(_problems(choice, value, where, root, depth + 1)) for choice in choices]
    if all(found):
        wanted = [name for choice in choices for name in _type_names(choice, root)]
        if len(wanted) > 1 and not any(_is_a(value, name) for name in wanted):
            yield f"{where} must be {' or '.join(_ARTICLES.get(n, f'a {n}') for n in wanted)}, not {_shown(value)}"
            return
        nearest = [
            problems
            for choice, problems in zip(choices, found, strict=True)
            if any(_is_a(value, name) for name in _type_names(choice, root))
        ]
        yield from min(nearest or found, key=len)


def _type_names(schema: Any, root: dict[str, Any]) -> list[str]:
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        schema = _resolved(schema["$ref"], root)
    return _names(schema.get("type")) if isinstance(schema, dict) else []


def _names(value: Any) -> list[str]:
    """One name or a list of them; what is neither is no name."""
    if isinstance(value, str):
        return [value]
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _object_problems(
    schema: dict[str, Any], value: dict[str, Any], where: str, root: dict[str, Any], depth: int
) -> Iterator[str]:
    properties = schema.get("properties")
    known: dict[str, Any] = properties if isinstance(properties, dict) else {}
    for name in _names(schema.get("required")):
        if name not in value:
            yield f"{where} lacks {name!r}"
    extra = schema.get("additionalProperties", True)
    for name, inner in value.items():
        if name in known:
            yield from _problems(known[name], inner, f"{where}.{name}", root, depth + 1)
        elif extra is False:
            yield f"{where} must not have {name!r} (it may have: {', '.join(known) or 'nothing'})"
        elif isinstance(extra, dict):
            yield from _problems(extra, inner, f"{where}.{name}", root, depth + 1)


def _is_a(value: Any, name: str) -> bool:
    if name == "integer":
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, _TYPES[name]) if name in _TYPES else True


def _is_one_of(value: Any, allowed: list[Any]) -> bool:
    """True is not 1 here, though Python has them equal."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)


def _resolved(reference: str, root: dict[str, Any]) -> Any:
    found: Any = root
    if not reference.startswith("#/"):
        return {}
    for part in reference[2:].split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _shown(value: Any) -> str:
    kind = next((name for name in _TYPES if _is_a(value, name)), "number")
    if kind in ("null", "boolean"):
        return _literal(value)
    text = repr(value)
    return f"the {kind} {text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '...'}"
