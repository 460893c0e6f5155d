"""JSON schemas of tools: read from Python source, checked when a caller brings one, held against a call's arguments.

The source is parsed and never run.
"""

import ast
import re
from typing import Any

from perdure.core.errors import Invalid
from perdure.core.syntax import parse_python
from perdure.tools.schema_check import check_arguments
from perdure.tools.schema_docstring import parse_docstring
from perdure.tools.schema_types import Annotations

__all__ = ["MAX_NAME_LENGTH", "check_arguments", "schema_from_source", "validate_json_schema"]

MAX_NAME_LENGTH = 48
_NAME = re.compile(r"^[a-zA-Z0-9_-]+$")
_NOT_THE_MODELS = ("self", "agent_state")
_MAX_PARTS = 20_000

Function = ast.FunctionDef | ast.AsyncFunctionDef


def schema_from_source(
    source: str, name: str | None = None, *, args_json_schema: dict[str, Any] | None = None
) -> dict[str, Any]:
    """{name, description, parameters} of the last function at the source's top level, or of the one called `name`.

    `args_json_schema` stands for the annotations and the docstring's Args. Invalid says what to add to the source.
    """
    try:
        module = parse_python(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise Invalid(f"source_code is not valid Python{line}: {reason}") from error
    function = _function(module, name)
    _check_name(function.name, "the function's name")
    text = ast.get_docstring(function) or ""
    docstring = parse_docstring(text)
    if not docstring.description and args_json_schema is None:
        raise Invalid(
            f"The function {function.name} has no docstring. Add one in Google style: what the tool does, and an "
            "'Args:' section with a line 'name (type): description' for each parameter."
        )
    if args_json_schema is not None:
        parameters = _parameters_of(args_json_schema, "args_json_schema")
    else:
        parameters = _parameters(function, docstring.parameters, Annotations(module))
    return {"name": function.name, "description": docstring.description, "parameters": parameters}


def validate_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A tool's schema as a caller gave it, completed. Invalid names the part that is wrong."""
    if not isinstance(schema, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  it comes from outside
        raise Invalid("json_schema: must be an object with name, description and parameters")
    name = schema.get("name")
    if not isinstance(name, str):
        raise Invalid("json_schema.name: must be the tool's name")
    _check_name(name, "json_schema.name")
    description = schema.get("description") or ""
    if not isinstance(description, str):
        raise Invalid("json_schema.description: must be text")
    parameters = _parameters_of(schema.get("parameters") or {}, "json_schema.parameters")
    return {**schema, "name": name, "description": description, "parameters": parameters}


def _check_name(name: str, what: str) -> None:
    if not _NAME.match(name):
        raise Invalid(f"{what}: {name!r} may only have the letters a-z and A-Z, digits, _ and -, as models require.")
    if len(name) > MAX_NAME_LENGTH:
        raise Invalid(f"{what}: {name!r} has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed.")


def _function(module: ast.Module, name: str | None) -> Function:
    functions = [node for node in module.body if isinstance(node, Function)]
    if name is None:
        if not functions:
            raise Invalid("source_code defines no function at its top level. Add the function that is the tool.")
        return functions[-1]
    for function in reversed(functions):
        if function.name == name:
            return function
    found = ", ".join(function.name for function in functions) or "none"
    raise Invalid(f"source_code defines no function {name!r} at its top level (functions it defines: {found}).")


def _parameters(function: Function, described: dict[str, str], annotations: Annotations) -> dict[str, Any]:
    arguments = function.args
    for kind, argument in (("*", arguments.vararg), ("**", arguments.kwarg)):
        if argument is not None:
            raise Invalid(
                f"The parameter {kind}{argument.arg} of {function.name} cannot be described to a model. "
                "Name each parameter of the tool."
            )
    if arguments.posonlyargs:
        raise Invalid(
            f"{function.name} has positional-only parameters; a model gives arguments by name. Remove the '/'."
        )
    with_default = {argument.arg for argument in arguments.args[len(arguments.args) - len(arguments.defaults) :]}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            with_default.add(argument.arg)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for argument in [*arguments.args, *arguments.kwonlyargs]:
        name = argument.arg
        if name in _NOT_THE_MODELS:
            continue
        where = f"Parameter {name!r} of {function.name}"
        if argument.annotation is None:
            raise Invalid(f"{where} has no type annotation. Add one, as in '{name}: str'.")
        found = annotations.read(argument.annotation, where)
        description = described.get(name) or found.description
        if not description:
            raise Invalid(
                f"{where} has no description. Add a line '{name} ({ast.unparse(argument.annotation)}): ...' to the "
                "'Args:' section of the docstring."
            )
        properties[name] = {**found.schema, "description": description}
        if name not in with_default and not found.optional:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _parameters_of(schema: Any, where: str) -> dict[str, Any]:
    """A caller's schema of the parameters, with references to its own definitions inlined."""
    if not isinstance(schema, dict):
        raise Invalid(f"{where}: must be the JSON schema of an object")
    if schema.get("type", "object") != "object":
        raise Invalid(f"{where}.type: must be 'object', not {schema['type']!r}")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise Invalid(f"{where}.properties: must be an object: parameter names to their schemas")
    for name, inner in properties.items():
        if not isinstance(inner, dict | bool):
            raise Invalid(f"{where}.properties.{name}: must be a JSON schema")
    required = schema.get("required") or []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise Invalid(f"{where}.required: must be a list of parameter names")
    if unknown := [name for name in required if name not in properties]:
        raise Invalid(f"{where}.required: {', '.join(unknown)} not among the properties")
    definitions = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema.get(key), dict)}
    plain = {key: value for key, value in schema.items() if key not in definitions}
    complete = {**plain, "type": "object", "properties": properties, "required": required}
    try:
        return _Inliner(definitions, where).inlined(complete, ())
    except RecursionError as error:
        raise Invalid(f"{where}: it is nested too deeply") from error


class _Inliner:
    """Copies a schema with references to its definitions written out; one within itself becomes any object."""

    def __init__(self, definitions: dict[str, Any], where: str) -> None:
        self._definitions = definitions
        self._where = where
        self._left = _MAX_PARTS

    def inlined(self, node: Any, within: tuple[str, ...]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Invalid(f"{self._where}: it has more than {_MAX_PARTS} parts when its definitions are written out")
        if isinstance(node, list):
            return [self.inlined(item, within) for item in node]
        if not isinstance(node, dict):
            return node
        target = self._definition(node.get("$ref"))
        if target is None:
            return {key: self.inlined(value, within) for key, value in node.items()}
        reference = node["$ref"]
        beside = {key: self.inlined(value, within) for key, value in node.items() if key != "$ref"}
        if reference in within:
            return {"type": "object", **beside}
        return {**self.inlined(target, (*within, reference)), **beside}

    def _definition(self, reference: Any) -> dict[str, Any] | None:
        if not isinstance(reference, str):
            return None
        start, _, rest = reference.partition("/")
        kind, _, name = rest.partition("/")
        found = self._definitions.get(kind, {}).get(name) if start == "#" else None
        return found if isinstance(found, dict) else None
