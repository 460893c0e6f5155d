"""Tool rules in words, for the system prompt and for the answer to a forbidden call. Rules are wire-shaped dicts."""

from collections.abc import Iterable, Mapping
from typing import Any

RENDERED = frozenset({"run_first", "continue_loop", "exit_loop", "constrain_child_tools", "parent_last_tool"})


def rule_sentence(rule: Mapping[str, Any]) -> str:
    """What a rule demands, in one sentence."""
    name: str = rule["tool_name"]
    match rule["type"]:
        case "run_first":
            return f"{name} must be your first tool call."
        case "continue_loop":
            return f"After calling {name} you go on: you get another turn."
        case "exit_loop":
            return f"Calling {name} ends your turn."
        case "constrain_child_tools":
            return f"Right after {name} you must call one of: {_list(rule['children'])}."
        case "parent_last_tool":
            return f"{_list(rule['children'])} may be called only right after {name}."
        case "conditional":
            return f"What {name} returns decides which tool must be called next{_mapping(rule)}."
        case "required_before_exit":
            return f"{name} must be called before you end your turn."
        case "max_count_per_step":
            return f"{name} may be called at most {rule['max_count_limit']} times in one turn."
        case "requires_approval":
            return f"{name} runs only after a person has approved the call."
        case other:
            raise ValueError(f"unknown tool rule type: {other!r}")


def render_rules(rules: Iterable[Mapping[str, Any]]) -> str:
    """The `<tool_usage_rules>` section; "" when no rule is of a kind the prompt shows."""
    shown = [rule_sentence(rule) for rule in rules if rule["type"] in RENDERED]
    if not shown:
        return ""
    rendered = "\n".join(f"<tool_rule>\n{sentence}\n</tool_rule>" for sentence in shown)
    intro = "These rules say when tools may be called. A call that breaks one is not run."
    return f"<tool_usage_rules>\n{intro}\n\n{rendered}\n</tool_usage_rules>"


def _mapping(rule: Mapping[str, Any]) -> str:
    pairs = "; ".join(f"{output!r}: {child}" for output, child in rule["child_output_mapping"].items())
    default = rule.get("default_child")
    return f" ({pairs}{f'; anything else: {default}' if default else ''})"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
