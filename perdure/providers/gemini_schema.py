"""JSON schemas in the part of OpenAPI's that Gemini reads.

Pure. References are put in place, `null` becomes `nullable`, unions become `anyOf`; a keyword Gemini would refuse is left out.
A schema that refers to itself is cut where it does: any object is allowed there.
"""

from typing import Any

_WORDS = ("description", "title", "default", "example", "pattern", "nullable")
_LIMITS = ("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_COPIED = frozenset((*_WORDS, *_LIMITS))
_FORMATS = {
    "string": frozenset({"date-time", "enum"}),
    "number": frozenset({"float", "double"}),
    "integer": frozenset({"int32", "int64"}),
}

Schema = dict[str, Any]


def gemini_schema(schema: Schema) -> Schema:
    """A JSON schema as Gemini takes it. Its input is left as it is."""
    definitions = {
        f"#/{place}/{name}": each
        for place in ("$defs", "definitions")
        for name, each in (schema.get(place) or {}).items()
    }
    return _made(schema, definitions, ())


def parameters(schema: Schema) -> Schema | None:
    """A tool's parameters; None for a tool without any, which Gemini wants left out."""
    made = gemini_schema(schema)
    return made if made.get("properties") else None


def _made(schema: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> Schema:
    if not isinstance(schema, dict):
        return {"type": "object"} if schema is not False else {"type": "string", "nullable": True}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = definitions.get(reference)
        if target is None or reference in inside:
            return {"type": "object", **_described(schema)}
        return {**_made(target, definitions, (*inside, reference)), **_described(schema)}
    if isinstance(schema.get("allOf"), list):
        schema = _merged(schema, definitions)
    made: Schema = {key: schema[key] for key in schema if key in _COPIED}
    kinds = _kinds(schema)
    if "null" in kinds:
        made["nullable"] = True
    kinds = [kind for kind in kinds if kind != "null"]
    choices = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    if choices:
        return _choice(made, choices, definitions, inside)
    if len(kinds) > 1:
        made["anyOf"] = [_made({**schema, "type": kind}, definitions, inside) for kind in kinds]
        return made
    kind = kinds[0] if kinds else "object"
    made["type"] = kind
    if schema.get("format") in _FORMATS.get(kind, ()):
        made["format"] = schema["format"]
    _add_values(made, schema, kind)
    if kind == "object":
        _add_properties(made, schema, definitions, inside)
    elif kind == "array":
        items = schema.get("items") or next(iter(schema.get("prefixItems") or ()), {"type": "string"})
        made["items"] = _made(items, definitions, inside)
    return made


def _described(schema: Schema) -> Schema:
    return {key: schema[key] for key in ("description", "title", "default") if key in schema}


def _merged(schema: Schema, definitions: dict[str, Any]) -> Schema:
    """All of `allOf` in one: what pydantic writes around a reference, and what inheritance becomes."""
    whole: Schema = {}
    for each in (*schema["allOf"], {key: value for key, value in schema.items() if key != "allOf"}):
        if not isinstance(each, dict):
            continue
        each = definitions.get(each["$ref"], {}) | _described(each) if "$ref" in each else each
        properties = {**whole.get("properties", {}), **each.get("properties", {})}
        required = [*whole.get("required", ()), *each.get("required", ())]
        whole |= each
        if properties:
            whole |= {"properties": properties, "required": required}
    return whole


def _kinds(schema: Schema) -> list[str]:
    kind = schema.get("type")
    if isinstance(kind, list):
        return [str(each).lower() for each in kind]
    if isinstance(kind, str):
        return [kind.lower()]
    if "properties" in schema:
        return ["object"]
    if "items" in schema:
        return ["array"]
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    return _kinds_of_values(values)


def _kinds_of_values(values: list[Any]) -> list[str]:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return list(dict.fromkeys(names.get(type(value), "string") for value in values))


def _choice(made: Schema, choices: list[Any], definitions: dict[str, Any], inside: tuple[str, ...]) -> Schema:
    real = [each for each in choices if not (isinstance(each, dict) and each.get("type") == "null")]
    if len(real) < len(choices):
        made["nullable"] = True
    options = [_made(each, definitions, inside) for each in real]
    if len(options) == 1:
        return {**options[0], **made}
    if options:
        made["anyOf"] = options
    return made


def _add_values(made: Schema, schema: Schema, kind: str) -> None:
    """Only strings may be enumerated; other values are told in words."""
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    values = [value for value in values if value is not None]
    if kind == "string" and values:
        made["enum"] = [str(value) for value in values]
    elif values:
        words = f"One of: {', '.join(str(value) for value in values)}."
        made["description"] = f"{made['description']} {words}" if made.get("description") else words


def _add_properties(made: Schema, schema: Schema, definitions: dict[str, Any], inside: tuple[str, ...]) -> None:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return
    made["properties"] = {name: _made(each, definitions, inside) for name, each in properties.items()}
    if required := [name for name in dict.fromkeys(schema.get("required") or ()) if name in properties]:
        made["required"] = required
