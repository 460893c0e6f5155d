"""The older agent types: they must call one tool a step, speak by calling one, and go on only where something says so.

Invariant: what these agents add to a tool's schema is none of the tool's own arguments, is never passed to it, and stays in the
record as the model wrote it.
"""

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import msgspec

from perdure.core.agents import Agent, Tool
from perdure.core.effects import ToolOutcome
from perdure.core.errors import ToolError
from perdure.core.ids import now_us
from perdure.core.messages import LegacyForm, ToolCall
from perdure.core.model import ModelDone, ToolSpec
from perdure.core.runs import StopReason
from perdure.loop import rules
from perdure.loop.endings import still_to_call, unreadable
from perdure.loop.shown import Speech
from perdure.loop.turn import Turn
from perdure.memory.times import spelt
from perdure.tools.calls import arguments_of
from perdure.tools.executor import LEGACY_AGENT_TYPES

HEARTBEAT = "request_heartbeat"
THOUGHTS = "thinking"
SPEAKER, SPOKEN = "send_message", "message"

_HEARTBEAT = {
    "type": "boolean",
    "description": "Whether you want to go on when the tool has returned. False ends your turn.",
}
_THOUGHTS = {"type": "string", "description": "What you think, for yourself alone. Write it before anything else."}

FAILED = "The call failed, so it is your turn again."
RULED = "A tool rule lets you go on after this call."
ASKED = "You asked to go on after this call."


@dataclass(slots=True, frozen=True)
class Legacy:
    """How one run of such an agent goes. `thinks`: the tools whose calls have an argument for thinking (None: none has)."""

    speech: Speech
    own_thoughts: Set[str] = frozenset()
    thinks: bool = True

    def form_of(self, name: str) -> LegacyForm:
        """How the calls of a tool are written."""
        return LegacyForm(THOUGHTS) if self.thinks and name not in self.own_thoughts else LegacyForm()

    def ending(
        self, turn: Turn, done: ModelDone, calls: Sequence[ToolCall], outcome: ToolOutcome | None, *, broken: bool
    ) -> tuple[StopReason | None, str | None]:
        """As `endings.ending`, for these agents."""
        if outcome is not None:
            stop, told = self.after_call(turn, calls, outcome, broken=broken)
        elif (why := unreadable(done)) is not None:
            stop, told = None, why
        else:
            return "max_tokens_exceeded" if done.finish == "length" else "no_tool_call", None
        if stop is None and turn.step_count + 1 >= turn.run.config.max_steps:
            return "max_steps", None
        return stop, told

    def after_call(
        self, turn: Turn, calls: Sequence[ToolCall], outcome: ToolOutcome, *, broken: bool = False
    ) -> tuple[StopReason | None, str | None]:
        """What a call means: a failure, a rule, or what the model asked for lets it go on; else its turn ends."""
        if broken:
            return "invalid_tool_call", None
        ran = [answer.name for answer in outcome.returns if answer.ran]
        if len(ran) < len(outcome.returns) or any(answer.status == "error" for answer in outcome.returns):
            return None, heartbeat(turn, FAILED)
        if (missing := still_to_call(turn, ran)) is not None:
            return None, heartbeat(turn, missing)
        if any(rules.is_terminal(turn.agent.tool_rules, name) for name in ran):
            return "tool_rule", None
        if _goes_on(turn, ran):
            return None, heartbeat(turn, RULED)
        if any(map(asks_for_heartbeat, calls)):
            return None, heartbeat(turn, ASKED)
        return "end_turn", None


def legacy_of(agent: Agent, tools: Iterable[Tool], speech: Speech) -> Legacy | None:
    """None for agents of the newer types."""
    if agent.agent_type not in LEGACY_AGENT_TYPES:
        return None
    own = frozenset(tool.name for tool in tools if THOUGHTS in _parameters(tool.json_schema).get("properties", {}))
    return Legacy(speech, own, agent.model_settings.put_inner_thoughts_in_kwargs is not False)


def legacy_agent(agent: Agent) -> Agent:
    """With settings as such an agent's model is called: one call at a time, in a form that its tools ask for."""
    settings = msgspec.structs.replace(agent.model_settings, response_format=None, parallel_tool_calls=False)
    return msgspec.structs.replace(agent, model_settings=settings)


def legacy_tools(tools: Sequence[Tool], response_format: dict[str, Any] | None) -> tuple[Tool, ...]:
    """The tools, with what is said in the form that is asked for."""
    wanted = _said_form(response_format)
    if wanted is None:
        return tuple(tools)
    return tuple(_speaking(tool, wanted) if tool.name == SPEAKER else tool for tool in tools)


def legacy_specs(
    specs: Iterable[ToolSpec], legacy: Legacy, tool_rules: Iterable[rules.Rule], client_tools: Set[str]
) -> list[ToolSpec]:
    """The tools as the model is shown them. A client's returns always go back to the model, so its tools need no heartbeat."""
    tool_rules = list(tool_rules)
    made: list[ToolSpec] = []
    for spec in specs:
        before = {THOUGHTS: _THOUGHTS} if legacy.form_of(spec.name).thoughts is not None else {}
        ends = spec.name in client_tools or rules.is_terminal(tool_rules, spec.name)
        after = {} if ends else {HEARTBEAT: _HEARTBEAT}
        given = spec.parameters
        properties = {**before, **given.get("properties", {}), **after}
        required = list(dict.fromkeys((*before, *(given.get("required") or ()), *after)))
        parameters = {**given, "type": "object", "properties": properties, "required": required}
        made.append(msgspec.structs.replace(spec, parameters=parameters))
    return made


def heartbeat(turn: Turn, reason: str) -> str:
    """What stands in the user's place when the model goes on by itself."""
    told = {"type": "heartbeat", "reason": reason, "time": spelt(now_us(), turn.agent.timezone)}
    return json.dumps(told, ensure_ascii=False)


def asks_for_heartbeat(call: ToolCall) -> bool:
    try:
        wanted = arguments_of(call).get(HEARTBEAT)
    except ToolError:
        return False
    return wanted is True or (isinstance(wanted, str) and wanted.strip().lower() == "true")


def _goes_on(turn: Turn, ran: Sequence[str]) -> bool:
    tool_rules = turn.agent.tool_rules
    if any(rule["type"] == "continue_loop" and rule["tool_name"] in ran for rule in tool_rules):
        return True
    follow = ("constrain_child_tools", "conditional", "parent_last_tool")
    return any(rule["type"] in follow and rule["tool_name"] in ran[-1:] for rule in tool_rules)


def _said_form(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    kind = (response_format or {}).get("type")
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        return ((response_format or {}).get("json_schema") or {}).get("schema") or {}
    return None


def _speaking(tool: Tool, wanted: dict[str, Any]) -> Tool:
    """`wanted` in place of the schema of what is said; its own definitions move to where references look for them."""
    parameters = _parameters(tool.json_schema)
    said = {key: value for key, value in wanted.items() if key not in ("$defs", "definitions", "$schema", "$id")}
    moved = {key: wanted[key] for key in ("$defs", "definitions") if key in wanted}
    properties = {**parameters.get("properties", {}), SPOKEN: said}
    schema = {**tool.json_schema, "parameters": {**parameters, **moved, "properties": properties}}
    return msgspec.structs.replace(tool, json_schema=schema)


def _parameters(schema: dict[str, Any]) -> dict[str, Any]:
    return schema.get("parameters") or {}
