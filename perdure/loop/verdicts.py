"""Which of a step's calls the tool rules let through, and with which arguments filled in.

The calls of one step are judged in their order, each as if those before it had been made. What a rule says about a tool's
return cannot be known within the step, so where it matters the next call has to wait for the next step.
"""

from collections.abc import Sequence, Set
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.messages import ToolCall
from perdure.core.model import ToolSpec
from perdure.loop import rules
from perdure.loop.turn import Turn
from perdure.tools.schema import check_arguments

BROKEN = "Error executing function {name}: a tool rule fills in arguments that the tool does not take: {problem}"


class Verdicts(Struct, frozen=True):
    """By call id: what to tell the model in place of running it, and the arguments that win over the model's.

    `broken`: a rule fills in what its tool does not take, which the model cannot mend.
    """

    refused: dict[str, str] = {}
    prefilled: dict[str, dict[str, Any]] = {}
    broken: bool = False


FREE = Verdicts()


def verdicts_on(
    turn: Turn, calls: Sequence[ToolCall], *, denied: Set[str] = frozenset(), trusted: Set[str] = frozenset()
) -> Verdicts:
    """`denied`: calls that are not made. `trusted`: calls that somebody has let through already, whatever the rules say now."""
    tool_rules = turn.agent.tool_rules
    if not calls or not rules.constrains(tool_rules):
        return FREE
    specs = {spec.name: spec for spec in turn.specs}
    called = list(turn.called)
    refused: dict[str, str] = {}
    prefilled: dict[str, dict[str, Any]] = {}
    broken = False
    for call in calls:
        if call.id in denied:
            continue
        allowed = rules.allowed_tools(tool_rules, specs, called)
        if call.id not in trusted and not allowed.all_tools and call.name not in allowed.names:
            refused[call.id] = rules.violation(tool_rules, call.name, sorted(allowed.names))
            continue
        if args := allowed.prefilled.get(call.name):
            if call.name in specs and (problem := _misfit(specs[call.name], args)) is not None:
                refused[call.id] = BROKEN.format(name=call.name, problem=problem)
                broken = True
                continue
            prefilled[call.id] = args
        called.append((call.name, rules.NOT_YET))
    return Verdicts(refused, prefilled, broken)


def refuses_last(turn: Turn, names: Sequence[str]) -> bool:
    """Of a step's calls of these tools, in order: whether the last one is not let through."""
    calls = [ToolCall(str(at), name, "{}") for at, name in enumerate(names)]
    return calls[-1].id in verdicts_on(turn, calls).refused


def _misfit(spec: ToolSpec, args: dict[str, Any]) -> str | None:
    return check_arguments({**spec.parameters, "required": []}, args)


def filled_in(call: ToolCall, args: dict[str, Any] | None) -> ToolCall:
    """The call as it is going to be made, for those who decide about it or make it themselves."""
    if not args:
        return call
    try:
        own = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        return call
    if not isinstance(own, dict):
        return call
    return msgspec.structs.replace(call, arguments=msgspec.json.encode({**own, **args}).decode())
