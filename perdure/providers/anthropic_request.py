"""Everything of a Messages request but its messages: limits, sampling, thinking, tools, output format.

Pure: a prompt and what its model takes (`claude_models.py`) in, fields out. Settings that a model refuses are left out or
turned into what it has instead; one that cannot be kept never makes the call fail.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from perdure.core.agents import ModelSettings
from perdure.core.messages import Message
from perdure.core.model import Prompt, ToolSpec
from perdure.providers.anthropic_schema import enforceable
from perdure.providers.claude_models import ClaudeTraits
from perdure.providers.structured import form_told

LEAST_BUDGET = 1_024
INTERLEAVED = "interleaved-thinking-2025-05-14"
BINDING_CONTROLS = "thinking-binding-controls-2026-08-01"

_EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_ORDER = ("low", "medium", "high", "xhigh", "max")


class Request(NamedTuple):
    """`fields`: the body without model, system, messages and tools. `betas`: the beta features it needs.

    `tools`: those to send. `note`: a last paragraph of the system text.
    """

    fields: dict[str, Any]
    betas: list[str]
    tools: Sequence[ToolSpec]
    note: str | None


def request_of(
    prompt: Prompt, traits: ClaudeTraits, *, thinking_missing: bool = False, drop_unbound: bool = False
) -> Request:
    """`thinking_missing`: the turn under way began without thinking, so manual thinking would be refused in it.

    `drop_unbound`: let the API drop thinking whose context has changed since, instead of refusing the call.
    """
    settings = prompt.settings
    limit = settings.max_output_tokens or traits.usual_output
    if traits.max_output is not None:
        limit = min(limit, traits.max_output)
    thinking = _thinking(settings, traits)
    if thinking is not None and thinking["type"] == "enabled":
        if thinking_missing:
            thinking = None
        else:
            limit = _with_room(thinking, limit, traits)
    manual = thinking is not None and thinking["type"] == "enabled"
    thinks = manual or (thinking is not None and thinking["type"] == "adaptive")
    tools, choice = _tools(prompt, traits, manual)
    betas: list[str] = [INTERLEAVED] if manual and tools and traits.interleaves else []
    fields: dict[str, Any] = {"max_tokens": limit, **_sampling(settings, traits, thinks)}
    if stop := [each for each in settings.stop if each.strip()]:
        fields["stop_sequences"] = stop
    if thinking is not None:
        if drop_unbound and thinking["type"] == "adaptive":
            thinking["block_binding"] = {"prefix_mismatch_behavior": "drop_block"}
            betas.append(BINDING_CONTROLS)
        fields["thinking"] = thinking
    output: dict[str, Any] = {}
    if (effort := _effort(settings, traits, thinking)) is not None:
        output["effort"] = effort
    schema, note = _format(settings, traits)
    if schema is not None:
        output["format"] = {"type": "json_schema", "schema": schema}
    if output:
        fields["output_config"] = output
    if choice is not None:
        fields["tool_choice"] = choice
    return Request(fields, betas, tools, note)


def _thinking(settings: ModelSettings, traits: ClaudeTraits) -> dict[str, Any] | None:
    """The thinking setting to send; None: none. Thinking that is on comes back readable where the model can show it."""
    asked = settings.raw.get("thinking")
    asked = asked if isinstance(asked, dict) else {}
    wanted = settings.enable_thinking
    if wanted is None and settings.reasoning_effort == "none":
        wanted = False
    if wanted is None and not traits.thinks:
        return None
    if wanted is False:
        return _no_thinking(traits)
    if "enabled" in traits.thinking and ("adaptive" not in traits.thinking or settings.thinking_budget):
        return {"type": "enabled", "budget_tokens": max(settings.thinking_budget or 0, LEAST_BUDGET)}
    if "adaptive" not in traits.thinking:
        return None
    made: dict[str, Any] = {"type": "adaptive"}
    if not traits.sampling:  # the models that hide their thinking unless told
        made["display"] = asked.get("display") or "summarized"
    return made


def _no_thinking(traits: ClaudeTraits) -> dict[str, Any] | None:
    if not traits.thinks:
        return None
    if "disabled" in traits.thinking:
        return {"type": "disabled"}
    if "between_tools" in traits.thinking:
        return {"type": "between_tools"}
    return {"type": "adaptive", "display": "omitted"}


def _with_room(thinking: dict[str, Any], limit: int, traits: ClaudeTraits) -> int:
    """The limit of the whole answer where a thinking budget is part of it: what was asked for beside the budget."""
    budget = thinking["budget_tokens"]
    if limit <= budget:
        limit = limit + budget if traits.max_output is None else min(limit + budget, traits.max_output)
        thinking["budget_tokens"] = max(min(budget, limit - 1), LEAST_BUDGET)
    return max(limit, LEAST_BUDGET + 1)


def _effort(settings: ModelSettings, traits: ClaudeTraits, thinking: dict[str, Any] | None) -> str | None:
    """The nearest level the model has, at most the one asked for. Without thinking nothing above high is taken."""
    asked = _EFFORTS.get(settings.reasoning_effort or "")
    if asked is None or not traits.effort or settings.reasoning_effort == "none":
        return None
    most = _ORDER.index(asked)
    if thinking is not None and thinking["type"] in ("disabled", "between_tools"):
        most = min(most, _ORDER.index("high"))
    return next(level for level in reversed(traits.effort) if _ORDER.index(level) <= most)


def _sampling(settings: ModelSettings, traits: ClaudeTraits, thinks: bool) -> dict[str, Any]:
    if not traits.sampling:
        return {}
    made: dict[str, Any] = {}
    if settings.temperature is not None and not thinks:
        made["temperature"] = min(max(settings.temperature, 0.0), 1.0)
    if settings.top_k is not None and settings.top_k > 0 and not thinks:
        made["top_k"] = settings.top_k
    if settings.top_p is not None and not ("temperature" in made and traits.one_of_two):
        made["top_p"] = max(settings.top_p, 0.95) if thinks else settings.top_p
    return made


def _tools(prompt: Prompt, traits: ClaudeTraits, manual: bool) -> tuple[Sequence[ToolSpec], dict[str, Any] | None]:
    """The tools to send and how they may be used.

    The list is part of what is cached, so it stays the agent's whole one wherever the choice alone can say what is allowed.
    """
    whole = prompt.shown_tools or prompt.tools
    choice = prompt.tool_choice
    if choice == "none" or not prompt.tools:
        tools = whole or _once_called(prompt.messages)
        return tools, {"type": "none"} if tools else None
    made: dict[str, Any] = {"type": "auto"}
    tools = prompt.tools
    if choice != "auto" and traits.forces_tools and not manual:
        made = {"type": "any"}
        if choice != "required":
            made, tools = {"type": "tool", "name": choice}, whole
    if not prompt.parallel_tool_calls:
        made["disable_parallel_tool_use"] = True
    return tools, made if made != {"type": "auto"} else None


def _once_called(messages: Sequence[Message]) -> list[ToolSpec]:
    """Stand-ins for the tools a context calls, where none is left: the API wants the tools of the calls it reads."""
    names = dict.fromkeys(call.name for message in messages for call in message.tool_calls)
    return [ToolSpec(name, "No longer available.", {"type": "object", "properties": {}}) for name in names]


def _format(settings: ModelSettings, traits: ClaudeTraits) -> tuple[dict[str, Any] | None, str | None]:
    """(a schema for the API to hold the answer to, words for the model to the same end)."""
    wanted = settings.response_format or {}
    if wanted.get("type") == "json_schema" and traits.structured:
        return enforceable(wanted["json_schema"]["schema"]), None
    return None, form_told(wanted)
