"""JSON schemas as the Messages API takes them for structured output: objects closed, unknown keywords told in words.

Pure. What a schema asks for beyond the keywords the API enforces is put into its description, where the model still reads it.
"""

import json
from typing import Any

_KEPT = frozenset({"type", "enum", "const", "description", "title", "default", "required", "$ref"})
_NESTED = ("anyOf", "allOf")
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})


def enforceable(schema: Any) -> Any:
    """The same schema in the keywords the API enforces."""
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _KEPT:
            made[key] = value
        elif key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            made[key] = {name: enforceable(inner) for name, inner in value.items()}
        elif key == "items":
            made[key] = enforceable(value)
        elif key in (*_NESTED, "oneOf") and isinstance(value, list):
            made["anyOf" if key == "oneOf" else key] = [enforceable(inner) for inner in value]
        elif (key == "format" and value in _FORMATS) or (key == "minItems" and value in (0, 1)):
            made[key] = value
        elif key not in ("additionalProperties", "$schema", "$id"):
            told[key] = value
    if "properties" in made or made.get("type") == "object":
        made["additionalProperties"] = False
    if told:
        words = json.dumps(told, ensure_ascii=False)
        made["description"] = f"{made['description']}\n\n{words}" if made.get("description") else words
    return made
