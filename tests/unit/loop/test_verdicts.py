"""Which calls of a step the rules let through."""

from typing import Any

import pytest

from perdure.core.agents import Agent
from perdure.core.messages import ToolCall
from perdure.core.model import ToolSpec
from perdure.loop.turn import Turn
from perdure.loop.verdicts import FREE, filled_in, verdicts_on

PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def turn(*rules: dict[str, Any], called: list[tuple[str, str]] | None = None) -> Turn:
    specs = [ToolSpec(name, "", PARAMETERS) for name in ("a", "b", "c")]
    empty: Any = None
    return Turn(
        run=empty,
        agent=Agent(id="agent-1", name="x", tool_rules=rules),
        tools={},
        specs=specs,
        system=empty,
        system_text="",
        context=[],
        model=empty,
        model_handle="",
        model_name="",
        provider_name="",
        endpoint=None,
        executor=empty,
        blocks={},
        called=called or [],
    )


def made(*names: str) -> list[ToolCall]:
    return [ToolCall(f"call_{at}", name, '{"n": 1}') for at, name in enumerate(names)]


def conditional(**more: Any) -> dict[str, Any]:
    mapping = {"yes": "b"}
    return {"type": "conditional", "tool_name": "a", "child_output_mapping": mapping, "default_child": None, **more}


def test_nothing_is_judged_without_rules_on_the_order() -> None:
    approving = {"type": "requires_approval", "tool_name": "a"}
    assert verdicts_on(turn(approving), made("a", "nonsense")) is FREE


@pytest.mark.parametrize(
    ("rule", "names", "refused"),
    [
        ({"type": "run_first", "tool_name": "a"}, ["b", "a", "b"], [0]),
        ({"type": "constrain_child_tools", "tool_name": "a", "children": ["b"]}, ["a", "c", "b", "c"], [1]),
        ({"type": "parent_last_tool", "tool_name": "a", "children": ["b"]}, ["b", "a", "c", "b"], [0, 2]),
        ({"type": "max_count_per_step", "tool_name": "a", "max_count_limit": 1}, ["a", "a", "b", "a"], [1, 3]),
        (conditional(), ["a", "b", "c"], [1, 2]),
        ({"type": "exit_loop", "tool_name": "a"}, ["a", "b"], []),
    ],
)
def test_calls_are_judged_in_order(rule: dict[str, Any], names: list[str], refused: list[int]) -> None:
    verdicts = verdicts_on(turn(rule), made(*names))
    assert list(verdicts.refused) == [f"call_{at}" for at in refused]


def test_a_known_return_decides() -> None:
    assert list(verdicts_on(turn(conditional(), called=[("a", "yes")]), made("c")).refused) == ["call_0"]
    assert not verdicts_on(turn(conditional(), called=[("a", "no")]), made("c")).refused


def test_denied_calls_are_not_made_and_trusted_ones_stand() -> None:
    rule = {"type": "constrain_child_tools", "tool_name": "a", "children": ["b"]}
    calls = made("a", "c")
    assert list(verdicts_on(turn(rule), calls).refused) == ["call_1"]
    assert not verdicts_on(turn(rule), calls, denied={"call_0"}).refused
    assert not verdicts_on(turn(rule), calls, trusted={"call_1"}).refused


def test_arguments_are_filled_in_for_the_call_they_are_meant_for() -> None:
    verdicts = verdicts_on(turn({"type": "run_first", "tool_name": "a", "args": {"n": 7}}), made("a", "a"))
    assert verdicts.prefilled == {"call_0": {"n": 7}}
    assert not verdicts.broken


@pytest.mark.parametrize("args", [{"n": "seven"}, {"m": 7}])
def test_arguments_that_do_not_fit_are_the_rules_fault(args: dict[str, Any]) -> None:
    verdicts = verdicts_on(turn({"type": "run_first", "tool_name": "a", "args": args}), made("a"))
    assert verdicts.broken
    assert next(iter(args)) in verdicts.refused["call_0"]


def test_a_call_is_shown_as_it_will_be_made() -> None:
    call = ToolCall("call_1", "a", '{"n": 1, "m": 2}')
    assert filled_in(call, {"n": 7}).arguments == '{"n":7,"m":2}'
    assert filled_in(call, None) is call
    broken = ToolCall("call_1", "a", "{")
    assert filled_in(broken, {"n": 7}) is broken
