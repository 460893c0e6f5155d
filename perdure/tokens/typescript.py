"""Tools as gpt-oss is shown them: TypeScript types in a namespace, comments for descriptions.

Invariant: the text is what the model's own chat template writes, whatever a schema holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perdure.core.model import ToolSpec
from perdure.tokens.templates import to_json

_PLAIN = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}
_LONGEST_ITEM = 50


def namespace(name: str, tools: Sequence[ToolSpec]) -> str:
    return f"## {name}\n\nnamespace {name} {{\n\n{''.join(map(_tool, tools))}}} // namespace {name}"


def _tool(tool: ToolSpec) -> str:
    head = f"// {tool.description}\ntype {tool.name} = "
    properties = tool.parameters.get("properties")
    if not properties:
        return head + "() => any;\n\n"
    required = tool.parameters.get("required") or ()
    return head + "(_: {\n" + "".join(_parameters(properties, required)) + "}) => any;\n\n"


def _parameters(properties: Mapping[str, Any], required: Sequence[str]) -> Iterator[str]:
    for name, schema in properties.items():
        if schema.get("description"):
            yield f"// {schema['description']}\n"
        yield f"{name}{'' if name in required else '?'}: {_type(schema)}"
        if "default" in schema:
            default = schema["default"]
            if schema.get("enum"):
                yield f", // default: {default}"
            elif schema.get("oneOf"):
                yield f"// default: {default}"
            else:
                yield f", // default: {to_json(default)}"
        yield ",\n"


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if kind == "array":
        return _array(schema)
    if isinstance(kind, list) and kind:
        return " | ".join(kind)
    if schema.get("oneOf"):
        return _one_of(schema["oneOf"])
    if kind == "string":
        if schema.get("enum"):
            return '"' + '" | "'.join(map(str, schema["enum"])) + '"'
        return "string | null" if schema.get("nullable") else "string"
    if kind == "object":
        return _object(schema)
    return _PLAIN.get(kind or "", "any") if isinstance(kind, str) else "any"


def _array(schema: Mapping[str, Any]) -> str:
    items, null = schema.get("items"), " | null" if schema.get("nullable") else ""
    if not items:
        return "any[]" + null
    if plain := _PLAIN.get(items.get("type") or "" if isinstance(items.get("type"), str) else ""):
        return plain + "[]" + null
    inner = _type(items)
    return ("any[]" if inner == "object | object" or len(inner) > _LONGEST_ITEM else inner + "[]") + null


def _one_of(variants: Sequence[Mapping[str, Any]]) -> str:
    """The template means to write `any` for several objects, but never notices them."""
    written: list[str] = []
    for at, variant in enumerate(variants):
        text = _type(variant)
        if variant.get("description"):
            text += f"// {variant['description']}"
        if "default" in variant:
            text += f"{' ' * 20}// default: {to_json(variant['default'])}"
        written.append(text + (" | \n" if at + 1 < len(variants) else ""))
    return "".join(written)


def _object(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties")
    if not properties:
        return "object"
    required = schema.get("required") or ()
    line = "\n" + " " * 16  # the template's own indentation
    pairs = (f"{name}{'' if name in required else '?'}: {line}{_type(one)}" for name, one in properties.items())
    return "{\n" + ", ".join(pairs) + "}"
