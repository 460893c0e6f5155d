"""Tool rules: what may be called next, what ends a run, and what a model that broke one is told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.errors import Invalid
from perdure.core.model import ToolSpec
from perdure.loop.rules import (
    Allowed,
    allowed_tools,
    constrains,
    is_terminal,
    missing_before_exit,
    render_rules,
    requires_approval,
    validate_rules,
    violation,
)

TOOLS = ["a", "b", "c"]


def rule(type: str, tool_name: str = "a", **fields: Any) -> dict[str, Any]:
    (checked,) = validate_rules([{"type": type, "tool_name": tool_name, **fields}])
    return checked


def names(
    rules: list[dict[str, Any]], *history: str | tuple[str, str], attached: list[str] = TOOLS
) -> tuple[str, bool]:
    """(allowed tools, forced), e.g. ("ab", True)."""
    called = [item if isinstance(item, tuple) else (item, "") for item in history]
    allowed = allowed_tools(rules, attached, called)
    assert allowed.all_tools == (allowed.names == frozenset(attached))
    return "".join(sorted(allowed.names)), allowed.forced


def test_without_rules_every_tool_may_be_called():
    assert allowed_tools([], TOOLS, [("a", "")]) == Allowed(names=frozenset(TOOLS), all_tools=True)


def test_approval_rules_constrain_nothing():
    rules = [rule("requires_approval")]
    assert not constrains(rules)
    assert names(rules) == ("abc", False)
    assert requires_approval(rules, "a") and not requires_approval(rules, "b")


@pytest.mark.parametrize(
    "other",
    [rule("exit_loop"), rule("run_first"), rule("max_count_per_step", max_count_limit=1), rule("continue_loop")],
)
def test_every_other_rule_constrains(other: dict[str, Any]):
    assert constrains([rule("requires_approval"), other])


def test_run_first_holds_for_the_first_call_only():
    rules = [rule("run_first", "a", args={"x": 1}), rule("run_first", "b")]
    first = allowed_tools(rules, TOOLS, [])
    assert (first.names, first.forced, first.prefilled) == (frozenset("ab"), True, {"a": {"x": 1}})
    second = allowed_tools(rules, TOOLS, [("c", "")])
    assert (second.names, second.forced, second.prefilled) == (frozenset("abc"), False, {})


def test_run_first_of_a_tool_that_is_not_attached_does_not_count():
    assert names([rule("run_first", "zz")]) == ("abc", False)


def test_children_follow_their_parent_and_take_its_arguments():
    rules = [rule("constrain_child_tools", "a", children=["b"], child_arg_nodes=[{"name": "b", "args": {"k": "v"}}])]
    assert names(rules) == ("abc", False)
    after = allowed_tools(rules, TOOLS, [("a", "")])
    assert (after.names, after.forced, after.prefilled) == (frozenset("b"), True, {"b": {"k": "v"}})
    assert allowed_tools(rules, TOOLS, [("a", ""), ("b", "")]).prefilled == {}


def test_two_child_rules_of_one_tool_allow_what_both_allow():
    rules = [rule("constrain_child_tools", children=["a", "b"]), rule("constrain_child_tools", children=["b", "c"])]
    assert names(rules, "a") == ("b", True)


def test_rules_that_leave_nothing_do_not_count():
    contradiction = [rule("constrain_child_tools", children=["b"]), rule("constrain_child_tools", children=["c"])]
    assert names(contradiction, "a") == ("abc", False)
    assert names([rule("constrain_child_tools", children=["zz"])], "a") == ("abc", False)


def test_a_child_may_be_called_only_right_after_its_parent():
    rules = [rule("parent_last_tool", "a", children=["b"])]
    assert names(rules) == ("ac", False)
    assert names(rules, "a") == ("b", True)
    assert names(rules, "a", "b") == ("ac", False)


def test_a_child_of_two_parents_may_follow_either():
    rules = [rule("parent_last_tool", "a", children=["c"]), rule("parent_last_tool", "b", children=["c"])]
    assert names(rules) == ("ab", False)
    assert names(rules, "a") == ("c", True)
    assert names(rules, "b") == ("c", True)


@pytest.mark.parametrize(
    ("key", "returned"),
    [
        ("yes", "yes"),
        ("true", "True"),
        ("False", "false"),
        ("3", "3"),
        ("3", "3.0"),
        ("0.5", " 0.50\n"),
        ("-1e3", "-1000"),
        (" text ", " text "),
    ],
)
def test_what_a_tool_returned_chooses_the_next_one(key: str, returned: str):
    rules = [rule("conditional", "a", child_output_mapping={key: "b", "other": "c"})]
    assert names(rules, ("a", returned)) == ("b", True)


@pytest.mark.parametrize(
    ("key", "returned"), [("true", "1"), ("1", "true"), ("yes", "Yes"), ("text", "text "), ("3", "")]
)
def test_what_only_resembles_a_key_is_no_match(key: str, returned: str):
    rules = [rule("conditional", "a", child_output_mapping={key: "b"}, default_child="c")]
    assert names(rules, ("a", returned)) == ("c", True)


def test_without_match_or_default_every_tool_may_follow():
    rules = [rule("conditional", "a", child_output_mapping={"x": "b"})]
    assert names(rules, ("a", "y")) == ("abc", False)
    assert names(rules, ("a", "x"), "b") == ("abc", False)


def test_in_strict_mode_no_match_means_no_tool():
    rules = [rule("conditional", "a", child_output_mapping={"x": "b"}, require_output_mapping=True, default_child="c")]
    assert names(rules, ("a", "y")) == ("", False)
    assert names(rules, ("a", "x")) == ("b", True)


def test_a_tool_is_spent_after_its_number_of_calls_counted_once_each():
    rules = [rule("max_count_per_step", "a", max_count_limit=2)]
    assert names(rules, "a") == ("abc", False)
    assert names(rules, "a", "b", "a") == ("bc", False)


def test_a_spent_tool_stays_spent_whatever_other_rules_say():
    spent = rule("max_count_per_step", "b", max_count_limit=1)
    assert names([rule("constrain_child_tools", "a", children=["b"]), spent], "b", "a") == ("ac", False)
    only = [rule("max_count_per_step", "a", max_count_limit=1)]
    assert names(only, "a", attached=["a"]) == ("", False)


def test_terminal_and_required_tools():
    rules = [rule("exit_loop", "a"), rule("required_before_exit", "b"), rule("required_before_exit", "zz")]
    assert is_terminal(rules, "a") and not is_terminal(rules, "b")
    specs = [ToolSpec(name, "", {}) for name in TOOLS]
    assert missing_before_exit(rules, specs, []) == ["b"]
    assert missing_before_exit(rules, specs, [("b", "")]) == []


def test_a_violation_names_the_tools_and_the_rules_behind_it():
    rules = [
        rule("constrain_child_tools", "a", children=["b"]),
        rule("exit_loop", "c"),
        rule("max_count_per_step", "a", max_count_limit=9),
    ]
    assert violation(rules, "c", ["b"]) == (
        "[ToolConstraintError] c cannot be called now and was not run. Tools you can call: b. "
        "Rules: Right after a you must call one of: b."
    )


@pytest.mark.parametrize(
    ("broken", "valid", "hint"),
    [
        (rule("run_first", "b"), ["b"], "b must be your first tool call."),
        (rule("parent_last_tool", "a", children=["c"]), ["a", "b"], "c may be called only right after a."),
        (
            rule("max_count_per_step", "c", max_count_limit=2),
            ["a", "b"],
            "c may be called at most 2 times in one turn.",
        ),
        (
            rule("conditional", "a", child_output_mapping={"x": "b"}, require_output_mapping=True),
            [],
            "What a returns decides which tool must be called next ('x': b).",
        ),
    ],
)
def test_each_kind_of_constraint_explains_itself(broken: dict[str, Any], valid: list[str], hint: str):
    text = violation([broken], "c", valid)
    assert text.startswith("[ToolConstraintError] c ")
    assert text.endswith(f"Rules: {hint}")


def test_the_prompt_shows_the_rules_a_model_can_follow():
    rules = [
        rule("run_first", "a"),
        rule("continue_loop", "b"),
        rule("exit_loop", "c"),
        rule("constrain_child_tools", "d", children=["e", "f"]),
        rule("parent_last_tool", "g", children=["h"]),
        rule("requires_approval", "secret"),
    ]
    text = render_rules(rules)
    assert text.count("<tool_rule>") == text.count("</tool_rule>") == 5
    for sentence in (
        "a must be your first tool call.",
        "After calling b you go on: you get another turn.",
        "Calling c ends your turn.",
        "Right after d you must call one of: e, f.",
        "h may be called only right after g.",
    ):
        assert f"<tool_rule>\n{sentence}\n</tool_rule>" in text
    assert "secret" not in text
    assert render_rules([rule("requires_approval")]) == ""


def test_checked_rules_have_all_fields_of_their_kind_and_none_other():
    assert validate_rules(
        [
            {"type": "run_first", "tool_name": "a", "unknown": 1},
            {"type": "conditional", "tool_name": "a", "child_output_mapping": {"1": "b"}, "prompt_template": "t"},
            {"type": "constrain_child_tools", "tool_name": "a", "children": [], "child_arg_nodes": [{"name": "b"}]},
        ]
    ) == (
        {"type": "run_first", "tool_name": "a", "args": None, "prompt_template": None},
        {
            "type": "conditional",
            "tool_name": "a",
            "child_output_mapping": {"1": "b"},
            "default_child": None,
            "require_output_mapping": False,
            "prompt_template": "t",
        },
        {
            "type": "constrain_child_tools",
            "tool_name": "a",
            "children": [],
            "child_arg_nodes": [{"name": "b", "args": None}],
            "prompt_template": None,
        },
    )


def test_checking_twice_changes_nothing():
    rules = (
        rule("run_first"),
        rule("conditional", child_output_mapping={"x": "b"}),
        rule("parent_last_tool", children=["b"]),
    )
    assert validate_rules(rules) == rules


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"type": "exit_loop"}, "tool_rules[0].tool_name"),
        ({"tool_name": "a"}, "tool_rules[0].type"),
        ({"type": "exit", "tool_name": "a"}, "tool_rules[0].type"),
        ({"type": ["exit_loop"], "tool_name": "a"}, "tool_rules[0].type"),
        ({"type": "constrain_child_tools", "tool_name": "a"}, "tool_rules[0].children"),
        ({"type": "parent_last_tool", "tool_name": "a", "children": ["b", 1]}, "tool_rules[0].children[1]"),
        ({"type": "max_count_per_step", "tool_name": "a", "max_count_limit": 0}, "tool_rules[0].max_count_limit"),
        ({"type": "max_count_per_step", "tool_name": "a", "max_count_limit": True}, "tool_rules[0].max_count_limit"),
        ({"type": "conditional", "tool_name": "a", "child_output_mapping": {}}, "tool_rules[0].child_output_mapping"),
        ({"type": "run_first", "tool_name": "a", "args": [1]}, "tool_rules[0].args"),
        (
            {"type": "constrain_child_tools", "tool_name": "a", "children": [], "child_arg_nodes": [{"args": {}}]},
            "tool_rules[0].child_arg_nodes[0].name",
        ),
        ("exit_loop", "tool_rules[0]"),
    ],
)
def test_a_wrong_rule_is_refused_naming_the_field(given: Any, field: str):
    with pytest.raises(Invalid) as caught:
        validate_rules([given])
    assert caught.value.message.startswith(f"{field} must ")
    assert caught.value.status == 422


NAME = st.sampled_from(TOOLS)
RULES = st.lists(
    st.one_of(
        st.builds(rule, st.sampled_from(["run_first", "exit_loop", "requires_approval"]), NAME),
        st.builds(lambda n, c: rule("constrain_child_tools", n, children=c), NAME, st.lists(NAME)),
        st.builds(lambda n, c: rule("parent_last_tool", n, children=c), NAME, st.lists(NAME)),
        st.builds(lambda n, c: rule("max_count_per_step", n, max_count_limit=c), NAME, st.integers(1, 2)),
        st.builds(
            lambda n, m, d, s: rule(
                "conditional", n, child_output_mapping=m, default_child=d, require_output_mapping=s
            ),
            NAME,
            st.dictionaries(st.sampled_from(["x", "1"]), NAME, min_size=1),
            st.none() | NAME,
            st.booleans(),
        ),
    ),
    max_size=5,
)


@given(rules=RULES, history=st.lists(st.tuples(NAME, st.sampled_from(["x", "1", ""])), max_size=4))
def test_only_attached_tools_are_ever_allowed_and_a_forced_call_can_be_made(
    rules: list[dict[str, Any]], history: list[tuple[str, str]]
):
    allowed = allowed_tools(rules, TOOLS, history)
    assert allowed.names <= frozenset(TOOLS)
    assert allowed.names or not allowed.forced
    assert set(allowed.prefilled) <= allowed.names
    assert allowed.all_tools == (allowed.names == frozenset(TOOLS))
    for limited in (item for item in rules if item["type"] == "max_count_per_step"):
        if [name for name, _ in history].count(limited["tool_name"]) >= limited["max_count_limit"]:
            assert limited["tool_name"] not in allowed.names
    if not allowed.names:
        assert any(item["type"] in ("max_count_per_step", "conditional") for item in rules)
