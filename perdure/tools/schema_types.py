"""Type annotations to JSON schema, read from the source's syntax tree: nothing of the source is ever run.

Pydantic models, enums and type aliases are followed as far as they are defined in the same source, and inlined.
"""

import ast
from typing import Any, NamedTuple

from perdure.core.errors import Invalid
from perdure.core.syntax import parse_python

Schema = dict[str, Any]

_PRIMITIVES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_LISTS = {"list", "List", "Sequence", "MutableSequence", "Iterable", "Collection"}
_SETS = {"set", "Set", "frozenset", "FrozenSet", "AbstractSet"}
_TUPLES = {"tuple", "Tuple"}
_DICTS = {"dict", "Dict", "Mapping", "MutableMapping"}
_ENUMS = {"Enum", "StrEnum", "IntEnum"}
_FIELD_KEYWORDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "pattern": "pattern",
    "min_length": "minLength",
    "max_length": "maxLength",
}
_SUPPORTED = (
    "str, int, float, bool, list, dict, tuple, set, Any, Literal, Optional, Union, and pydantic models and enums "
    "defined in the same source"
)
_MAX_PARTS = 2_000  # models inlined in models double with every level
_NULL: Schema = {"type": "null"}


class Annotation(NamedTuple):
    """`optional`: None is allowed too, which the schema does not say. `description`: from Annotated[...], if it has one."""

    schema: Schema
    optional: bool = False
    description: str | None = None


class Annotations:
    """Translates the annotations of one source."""

    def __init__(self, module: ast.Module) -> None:
        self._classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        self._aliases: dict[str, ast.expr] = {}
        self._left = _MAX_PARTS
        for node in module.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self._aliases[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self._aliases[node.target.id] = node.value

    def read(self, node: ast.expr, where: str) -> Annotation:
        """Invalid names `where` and the types there are."""
        self._left = _MAX_PARTS
        try:
            return self._read(node, where, ())
        except RecursionError as error:
            raise Invalid(f"{where}: its type is nested too deeply") from error

    def _read(self, node: ast.expr, where: str, seen: tuple[str, ...]) -> Annotation:
        self._left -= 1
        if self._left < 0:
            raise Invalid(f"{where}: its type has more than {_MAX_PARTS} parts when written out")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                node = parse_python(node.value, "eval").body
            except SyntaxError as error:
                raise Invalid(f"{where}: its annotation {node.value!r} is not a type") from error
        if isinstance(node, ast.Constant) and node.value is None:
            return Annotation(_NULL, optional=True)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._union(_alternatives(node), where, seen)
        if isinstance(node, ast.Subscript):
            return self._generic(_last_name(node.value), _arguments(node), where, seen)
        return self._plain(_last_name(node), node, where, seen)

    def _plain(self, name: str | None, node: ast.expr, where: str, seen: tuple[str, ...]) -> Annotation:
        if name in _PRIMITIVES:
            return Annotation({"type": _PRIMITIVES[name]})
        if name in ("Any", "object"):
            return Annotation({})
        if name in _LISTS | _TUPLES:
            return Annotation({"type": "array", "items": {}})
        if name in _SETS:
            return Annotation({"type": "array", "items": {}, "uniqueItems": True})
        if name in _DICTS:
            return Annotation({"type": "object"})
        if name in self._classes:
            return Annotation(self._class(self._classes[name], where, seen))
        if name in self._aliases and name not in seen:
            return self._read(self._aliases[name], where, (*seen, name))
        raise Invalid(f"{where}: its type {ast.unparse(node)!r} is not supported. Use one of: {_SUPPORTED}.")

    def _generic(self, name: str | None, inner: list[ast.expr], where: str, seen: tuple[str, ...]) -> Annotation:
        if name == "Optional":
            return self._union([*inner, ast.Constant(None)], where, seen)
        if name == "Union":
            return self._union(inner, where, seen)
        if name == "Literal":
            return _literal(inner, where)
        if name == "Annotated":
            found = self._read(inner[0], where, seen)
            return self._annotated(found, inner[1:])
        if name in _LISTS:
            return Annotation({"type": "array", "items": self._nested(inner[0], where, seen)})
        if name in _SETS:
            return Annotation({"type": "array", "items": self._nested(inner[0], where, seen), "uniqueItems": True})
        if name in _TUPLES:
            return Annotation(self._tuple(inner, where, seen))
        if name in _DICTS:
            values = self._nested(inner[-1], where, seen)
            return Annotation({"type": "object", "additionalProperties": values} if values else {"type": "object"})
        raise Invalid(f"{where}: its type {name or 'annotation'}[...] is not supported. Use one of: {_SUPPORTED}.")

    def _nested(self, node: ast.expr, where: str, seen: tuple[str, ...]) -> Schema:
        found = self._read(node, where, seen)
        return _nullable(found.schema) if found.optional else found.schema

    def _tuple(self, inner: list[ast.expr], where: str, seen: tuple[str, ...]) -> Schema:
        """By length and kinds of items only: providers refuse schemas that give each place its own."""
        if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is Ellipsis:
            return {"type": "array", "items": self._nested(inner[0], where, seen)}
        kinds: list[Schema] = []
        for node in inner:
            if (schema := self._nested(node, where, seen)) not in kinds:
                kinds.append(schema)
        items = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        return {"type": "array", "items": items, "minItems": len(inner), "maxItems": len(inner)}

    def _union(self, nodes: list[ast.expr], where: str, seen: tuple[str, ...]) -> Annotation:
        found = [self._read(node, where, seen) for node in nodes]
        optional = any(one.optional for one in found)
        kinds: list[Schema] = []
        for one in found:
            if one.schema != _NULL and one.schema not in kinds:
                kinds.append(one.schema)
        if not kinds:
            return Annotation(_NULL, optional=True)
        if len(kinds) == 1:
            return Annotation(kinds[0], optional)
        return Annotation({"anyOf": kinds}, optional)

    def _annotated(self, found: Annotation, extras: list[ast.expr]) -> Annotation:
        description = found.description
        schema = found.schema
        for extra in extras:
            if isinstance(extra, ast.Constant) and isinstance(extra.value, str):
                description = extra.value
            elif isinstance(extra, ast.Call) and _last_name(extra.func) == "Field":
                settings = _constants(extra)
                schema = {**schema, **_constraints(settings, schema)}
                description = settings.get("description", description)
        return Annotation(schema, found.optional, description)

    def _class(self, node: ast.ClassDef, where: str, seen: tuple[str, ...]) -> Schema:
        bases = self._lineage(node)
        names = {_last_name(base) for cls in bases for base in cls.bases}
        if names & _ENUMS:
            return _enum(node, where)
        if "BaseModel" not in names:
            raise Invalid(
                f"{where}: the class {node.name} is neither a pydantic model nor an enum. Use one of: {_SUPPORTED}."
            )
        if node.name in seen:
            return {"type": "object", "description": f"a nested {node.name}"}
        properties: dict[str, Schema] = {}
        required: list[str] = []
        for cls in bases:
            for field in cls.body:
                if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                    continue
                name = field.target.id
                if name.startswith("_") or name == "model_config" or _is_class_var(field.annotation):
                    continue
                properties[name], is_required = self._field(field, f"{where}, field {name}", (*seen, node.name))
                required = [other for other in required if other != name] + ([name] if is_required else [])
        schema: Schema = {"type": "object", "properties": properties, "required": required}
        if text := ast.get_docstring(node):
            schema["description"] = text
        return schema

    def _field(self, node: ast.AnnAssign, where: str, seen: tuple[str, ...]) -> tuple[Schema, bool]:
        """A model field's schema, and whether it must be given."""
        found = self._read(node.annotation, where, seen)
        schema = _nullable(found.schema) if found.optional else dict(found.schema)
        if found.description is not None:
            schema["description"] = found.description
        default = node.value
        if isinstance(default, ast.Call) and _last_name(default.func) == "Field":
            settings = _constants(default)
            schema.update(_constraints(settings, schema))
            if "description" in settings:
                schema["description"] = settings["description"]
            if any(keyword.arg == "default_factory" for keyword in default.keywords):
                return schema, False
            named = [keyword.value for keyword in default.keywords if keyword.arg == "default"]
            default = next(iter([*default.args, *named]), None)
        if default is None or (isinstance(default, ast.Constant) and default.value is Ellipsis):
            return schema, True
        try:
            value = ast.literal_eval(default)
        except ValueError:
            return schema, False
        if isinstance(value, str | int | float | bool | list | dict):
            schema["default"] = value
        return schema, False

    def _lineage(self, node: ast.ClassDef) -> list[ast.ClassDef]:
        """The class and those it inherits from in this source, bases first."""
        found: list[ast.ClassDef] = []

        def add(cls: ast.ClassDef) -> None:
            for base in cls.bases:
                parent = self._classes.get(_last_name(base) or "")
                if parent is not None and parent is not cls and parent not in found:
                    add(parent)
            found.append(cls)

        add(node)
        return found


def _nullable(schema: Schema) -> Schema:
    if schema in ({}, _NULL):
        return dict(schema)
    if "anyOf" in schema and len(schema) == 1:
        return {"anyOf": [*schema["anyOf"], _NULL]}
    return {"anyOf": [schema, _NULL]}


def _literal(nodes: list[ast.expr], where: str) -> Annotation:
    values: list[Any] = []
    for node in nodes:
        try:
            values.append(ast.literal_eval(node))
        except ValueError as error:
            raise Invalid(f"{where}: Literal[...] takes plain values, not {ast.unparse(node)!r}") from error
    return Annotation(_enum_schema([value for value in values if value is not None]), optional=None in values)


def _enum(node: ast.ClassDef, where: str) -> Schema:
    values: list[Any] = []
    for line in node.body:
        if isinstance(line, ast.Assign):
            try:
                values.append(ast.literal_eval(line.value))
            except ValueError as error:
                raise Invalid(f"{where}: the members of {node.name} must have plain values") from error
    if not values:
        raise Invalid(f"{where}: the enum {node.name} has no members")
    return _enum_schema(values)


def _enum_schema(values: list[Any]) -> Schema:
    for kind, name in ((bool, "boolean"), (str, "string"), (int, "integer")):
        if values and all(type(value) is kind for value in values):
            return {"type": name, "enum": values}
    return {"enum": values}


def _constants(call: ast.Call) -> dict[str, Any]:
    """The keyword arguments of a call that are plain values."""
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is not None:
            try:
                found[keyword.arg] = ast.literal_eval(keyword.value)
            except ValueError:
                continue
    return found


def _constraints(settings: dict[str, Any], schema: Schema) -> Schema:
    renamed = {"minLength": "minItems", "maxLength": "maxItems"} if schema.get("type") == "array" else {}
    found = {to: settings[name] for name, to in _FIELD_KEYWORDS.items() if name in settings}
    return {renamed.get(name, name): value for name, value in found.items()}


def _is_class_var(node: ast.expr) -> bool:
    return _last_name(node.value if isinstance(node, ast.Subscript) else node) == "ClassVar"


def _alternatives(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    return [node]


def _arguments(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _last_name(node: ast.expr) -> str | None:
    """`typing.Optional` and `t.Optional` are `Optional`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
