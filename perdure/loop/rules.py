"""Tool rules, as pure functions over wire-shaped dicts: which tools may be called next, which call ends the run.

`history` is what was called so far in the request and run, in order, as (tool name, text it returned); calls that were
refused are not in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from perdure.core.model import ToolSpec
from perdure.loop.rule_shapes import validate_rules
from perdure.memory.rules_text import render_rules, rule_sentence

__all__ = [
    "Allowed",
    "allowed_tools",
    "constrains",
    "is_terminal",
    "missing_before_exit",
    "render_rules",
    "requires_approval",
    "validate_rules",
    "violation",
]

NOT_YET = "\0"  # in a history, in place of what a call of the step under way is going to return

Rule = Mapping[str, Any]
History = Sequence[tuple[str, str]]


class Allowed(Struct, frozen=True, kw_only=True):
    """The tools that may be called now.

    `all_tools`: every attached one. `forced`: one of them must be called. `prefilled`: tool name -> arguments that win
    over the model's.
    """

    names: frozenset[str]
    all_tools: bool = False
    forced: bool = False
    prefilled: dict[str, dict[str, Any]] = field(default_factory=dict)


def allowed_tools(rules: Iterable[Rule], attached: Iterable[str], history: History) -> Allowed:
    """What may be called next.

    Rules that leave nothing to call (they contradict each other, or name tools that are not attached) do not count; a
    spent `max_count_per_step` and a strict `conditional` without a match always do.
    """
    rules, every = list(rules), frozenset(attached)
    if not constrains(rules):
        return Allowed(names=every, all_tools=True)
    spent = _spent(rules, history)
    if not history:
        first = [rule for rule in rules if rule["type"] == "run_first" and rule["tool_name"] in every]
        if first:
            prefilled = {rule["tool_name"]: dict(rule["args"]) for rule in first if rule.get("args")}
            return _allowed(frozenset(rule["tool_name"] for rule in first), every, forced=True, prefilled=prefilled)
    last = history[-1] if history else None
    if last is not None and any(_undecided(rule, last) or _strict_without_match(rule, last) for rule in rules):
        return Allowed(names=frozenset())
    names, forced = _after(rules, every, last)
    if names - spent:
        prefilled = {name: args for name, args in _child_args(rules, last).items() if name in names - spent}
        return _allowed(names - spent, every, forced=forced, prefilled=prefilled)
    return _allowed(every - spent, every)


def constrains(rules: Iterable[Rule]) -> bool:
    """Whether any rule bears on the order of calls, so that only one may be made at a time."""
    return any(rule["type"] != "requires_approval" for rule in rules)


def is_terminal(rules: Iterable[Rule], name: str) -> bool:
    """Whether calling the tool ends the run."""
    return any(rule["type"] == "exit_loop" and rule["tool_name"] == name for rule in rules)


def requires_approval(rules: Iterable[Rule], name: str) -> bool:
    return any(rule["type"] == "requires_approval" and rule["tool_name"] == name for rule in rules)


def missing_before_exit(rules: Iterable[Rule], specs: Iterable[ToolSpec], history: History) -> list[str]:
    """Attached tools that have to be called before the run may end and have not been."""
    attached = {spec.name for spec in specs}
    called = {name for name, _ in history}
    required = [rule["tool_name"] for rule in rules if rule["type"] == "required_before_exit"]
    return [name for name in dict.fromkeys(required) if name in attached and name not in called]


def violation(rules: Iterable[Rule], name: str, valid: Sequence[str]) -> str:
    """What the model is told in place of running a call that the rules forbid."""
    callable_now = ", ".join(valid) or "none"
    text = f"[ToolConstraintError] {name} cannot be called now and was not run. Tools you can call: {callable_now}."
    rules = list(rules)
    hints = [rule_sentence(rule) for rule in rules if _explains(rule, rules, name, set(valid))]
    return f"{text} Rules: {' '.join(hints)}" if hints else text


def _explains(rule: Rule, rules: Iterable[Rule], name: str, valid: set[str]) -> bool:
    """Whether the rule may be why `name` cannot be called while the `valid` ones can."""
    match rule["type"]:
        case "run_first":
            return bool(valid) and valid <= {other["tool_name"] for other in rules if other["type"] == "run_first"}
        case "constrain_child_tools":
            return bool(valid) and valid <= set(rule["children"])
        case "parent_last_tool":
            return name in rule["children"] or (bool(valid) and valid <= set(rule["children"]))
        case "conditional":
            return valid <= {*rule["child_output_mapping"].values(), rule.get("default_child")}
        case "max_count_per_step":
            return name == rule["tool_name"]
        case _:
            return False


def _allowed(
    names: frozenset[str],
    every: frozenset[str],
    *,
    forced: bool = False,
    prefilled: dict[str, dict[str, Any]] | None = None,
) -> Allowed:
    return Allowed(names=names, all_tools=names == every, forced=forced and bool(names), prefilled=prefilled or {})


def _spent(rules: Iterable[Rule], history: History) -> frozenset[str]:
    counts: dict[str, int] = {}
    for name, _ in history:
        counts[name] = counts.get(name, 0) + 1
    return frozenset(
        rule["tool_name"]
        for rule in rules
        if rule["type"] == "max_count_per_step" and counts.get(rule["tool_name"], 0) >= rule["max_count_limit"]
    )


def _after(rules: Iterable[Rule], every: frozenset[str], last: tuple[str, str] | None) -> tuple[frozenset[str], bool]:
    """(names, forced) after the last call; no names when the rules leave none."""
    name = last[0] if last is not None else None
    names, forced = every, False
    opened: set[str] = set()
    closed: set[str] = set()
    for rule in rules:
        after_this = rule["tool_name"] == name
        match rule["type"]:
            case "constrain_child_tools" if after_this:
                names, forced = names & frozenset(rule["children"]), True
            case "parent_last_tool":
                (opened if after_this else closed).update(rule["children"])
            case "conditional" if after_this and last is not None and (child := _chosen(rule, last[1])) is not None:
                names, forced = names & {child}, True
            case _:
                pass
    if opened:
        names, forced = names & opened, True
    return names - (closed - opened), forced


def _child_args(rules: Iterable[Rule], last: tuple[str, str] | None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for rule in rules:
        if last is not None and rule["type"] == "constrain_child_tools" and rule["tool_name"] == last[0]:
            for node in rule.get("child_arg_nodes") or ():
                if node.get("args"):
                    found.setdefault(node["name"], {}).update(node["args"])
    return found


def _strict_without_match(rule: Rule, last: tuple[str, str]) -> bool:
    return (
        rule["type"] == "conditional"
        and rule["tool_name"] == last[0]
        and bool(rule.get("require_output_mapping"))
        and _mapped(rule, last[1]) is None
    )


def _undecided(rule: Rule, last: tuple[str, str]) -> bool:
    return rule["type"] == "conditional" and rule["tool_name"] == last[0] and last[1] == NOT_YET


def _chosen(rule: Rule, returned: str) -> str | None:
    return _mapped(rule, returned) or rule.get("default_child")


def _mapped(rule: Rule, returned: str) -> str | None:
    mapping: dict[str, str] = rule["child_output_mapping"]
    if returned in mapping:
        return mapping[returned]
    return next((child for output, child in mapping.items() if _same(output, returned)), None)


def _same(output: str, returned: str) -> bool:
    """Whether a mapping's key means what a tool returned: as true or false, or as a number."""
    output, returned = output.strip(), returned.strip()
    if output.lower() in ("true", "false"):
        return output.lower() == returned.lower()
    try:
        return float(output) == float(returned)
    except ValueError:
        return False
