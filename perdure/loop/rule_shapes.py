"""Checks tool rules as they come in. What passes has every field its kind has, defaults filled in, and none other."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from perdure.core.errors import Invalid

_KINDS: dict[str, tuple[str, ...]] = {
    "run_first": ("args",),
    "constrain_child_tools": ("children", "child_arg_nodes"),
    "parent_last_tool": ("children",),
    "conditional": ("child_output_mapping", "default_child", "require_output_mapping"),
    "continue_loop": (),
    "exit_loop": (),
    "required_before_exit": (),
    "max_count_per_step": ("max_count_limit",),
    "requires_approval": (),
}


def validate_rules(rules: Iterable[Any], *, field: str = "tool_rules") -> tuple[dict[str, Any], ...]:
    """Raises Invalid (422) that names the field and says what belongs there."""
    if isinstance(rules, str | Mapping):
        _wrong(field, "must be a list of rules")
    return tuple(_rule(rule, f"{field}[{at}]") for at, rule in enumerate(rules))


def _rule(rule: Any, where: str) -> dict[str, Any]:
    if not isinstance(rule, Mapping):
        _wrong(where, "must be an object with type and tool_name")
    kind = rule.get("type")
    if not isinstance(kind, str) or kind not in _KINDS:
        _wrong(f"{where}.type", f"must be one of {', '.join(_KINDS)}")
    checked: dict[str, Any] = {"type": kind, "tool_name": _name(rule.get("tool_name"), f"{where}.tool_name")}
    for key in _KINDS[kind]:
        checked[key] = _CHECKS[key](rule.get(key), f"{where}.{key}")
    checked["prompt_template"] = _optional_text(rule.get("prompt_template"), f"{where}.prompt_template")
    return checked


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        _wrong(where, "must be the name of a tool")
    return value


def _optional_text(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        _wrong(where, "must be a string or null")
    return value


def _optional_name(value: Any, where: str) -> str | None:
    return None if value is None else _name(value, where)


def _children(value: Any, where: str) -> list[str]:
    if not isinstance(value, list | tuple):
        _wrong(where, "must be a list of tool names")
    return [_name(child, f"{where}[{at}]") for at, child in enumerate(value)]


def _args(value: Any, where: str) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        _wrong(where, "must be an object of argument names and values, or null")
    return dict(value)


def _arg_nodes(value: Any, where: str) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        _wrong(where, "must be a list of {name, args}, or null")
    nodes: list[dict[str, Any]] = []
    for at, node in enumerate(value):
        here = f"{where}[{at}]"
        if not isinstance(node, Mapping):
            _wrong(here, "must be an object with name and args")
        nodes.append({"name": _name(node.get("name"), f"{here}.name"), "args": _args(node.get("args"), f"{here}.args")})
    return nodes


def _output_mapping(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        _wrong(where, "must map at least one return value to the tool to be called next")
    return {str(output): _name(child, f"{where}[{output!r}]") for output, child in value.items()}


def _flag(value: Any, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        _wrong(where, "must be true or false")
    return bool(value)


def _limit(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _wrong(where, "must be a whole number of at least 1")
    return value


_CHECKS = {
    "args": _args,
    "children": _children,
    "child_arg_nodes": _arg_nodes,
    "child_output_mapping": _output_mapping,
    "default_child": _optional_name,
    "require_output_mapping": _flag,
    "max_count_limit": _limit,
}


def _wrong(where: str, what: str) -> NoReturn:
    raise Invalid(f"{where} {what}.", status=422)
