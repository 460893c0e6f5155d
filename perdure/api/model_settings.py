"""Model settings between the wire and our values, both ways: what a caller sent comes back as it was sent.

What nobody said stays unsaid: a default of ours would quietly replace the provider's own.
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from perdure.core.agents import Agent, ModelSettings
from perdure.core.dialect import PARSER_NAMES
from perdure.core.errors import Invalid
from perdure.tools.executor import LEGACY_AGENT_TYPES
from perdure.tools.json_schema import unsupported

_PROVIDER_TYPES = """
anthropic azure baseten bedrock cerebras chatgpt_oauth deepseek fireworks google_ai google_vertex groq hugging-face letta
lmstudio_openai minimax mistral moonshot ollama openai openrouter sglang together vllm xai zai zai_coding
"""


class _Settings(Struct, kw_only=True):
    """The model settings of every provider in one; each knows some of them."""

    provider_type: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    effort: str | None = None
    verbosity: str | None = None
    wire_api: Literal["chat", "responses"] | None = None
    enable_thinking: bool | None = None
    response_format: dict[str, Any] | None = None
    response_schema: dict[str, Any] | None = None
    thinking_config: dict[str, Any] | None = None
    strict: bool | None = None
    put_inner_thoughts_in_kwargs: bool | None = None
    tool_call_parser: str | None = None
    return_logprobs: bool | None = None
    top_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_routed_experts: bool | None = None
    routed_experts_shape: tuple[int, int] | None = None
    tokenizer: str | None = None


_COPIED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_output_tokens",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "parallel_tool_calls",
    "enable_thinking",
    "verbosity",
    "wire_api",
    "response_format",
    "strict",
    "put_inner_thoughts_in_kwargs",
    "tool_call_parser",
    "return_logprobs",
    "top_logprobs",
    "return_token_ids",
    "return_routed_experts",
    "routed_experts_shape",
    "tokenizer",
)
_RANGES = {
    "temperature": (0.0, 10.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "max_output_tokens": (1, 10_000_000),
    "top_logprobs": (0, 20),
}


def model_settings(raw: Mapping[str, Any], *, field: str = "model_settings") -> ModelSettings:
    """Parsed, with `raw` kept. Invalid (422) names the setting that is wrong; unknown ones are kept but not used."""
    try:
        given = msgspec.convert(dict(raw), _Settings)
    except msgspec.ValidationError as error:
        raise Invalid(_convert_message(str(error), field), status=422) from error
    for name, (least, most) in _RANGES.items():
        value = getattr(given, name)
        if value is not None and not least <= value <= most:
            raise Invalid(f"{field}.{name}: must be between {least} and {most}, not {value}", status=422)
    values = {name: value for name in _COPIED if (value := getattr(given, name)) is not None}
    if given.response_schema is not None and given.response_format is None:
        check_response_format(given.response_schema, f"{field}.response_schema")
        values["response_format"] = given.response_schema  # the name it has in Google's settings
    if given.response_format is not None:
        check_response_format(given.response_format, f"{field}.response_format")
    if given.tool_call_parser is not None and given.tool_call_parser not in PARSER_NAMES:
        known = ", ".join(sorted(PARSER_NAMES))
        raise Invalid(
            f"{field}.tool_call_parser: there is no parser {given.tool_call_parser!r}. Leave it out for the model's own form, "
            f"or give one of: {known}",
            status=422,
        )
    if given.routed_experts_shape is not None and min(given.routed_experts_shape) < 1:
        raise Invalid(
            f"{field}.routed_experts_shape: must be [layers, experts an id], both at least 1, not "
            f"{list(given.routed_experts_shape)}",
            status=422,
        )
    if given.stop is not None:
        values["stop"] = (given.stop,) if isinstance(given.stop, str) else tuple(given.stop)
    effort = (given.reasoning or {}).get("reasoning_effort") or given.effort
    if effort is not None:
        if not isinstance(effort, str):
            raise Invalid(f"{field}.reasoning.reasoning_effort: must be a string", status=422)
        values["reasoning_effort"] = effort
    summary = (given.reasoning or {}).get("summary")
    if summary is not None:
        if summary not in ("auto", "concise", "detailed", "none"):
            raise Invalid(f"{field}.reasoning.summary: must be auto, concise, detailed or none", status=422)
        values["reasoning_summary"] = summary
    if given.thinking is not None:
        values = {**_thinking(given.thinking, f"{field}.thinking"), **values}
    return ModelSettings(**values, raw=dict(raw))


def _thinking(given: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Anthropic's `thinking`, in our words."""
    kind, budget = given.get("type", "enabled"), given.get("budget_tokens")
    if kind not in ("enabled", "adaptive", "disabled"):
        raise Invalid(f"{field}.type: must be enabled, adaptive or disabled, not {kind!r}", status=422)
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
        raise Invalid(f"{field}.budget_tokens: must be a number of tokens, not {budget!r}", status=422)
    if given.get("display") not in (None, "summarized", "omitted"):
        raise Invalid(f"{field}.display: must be summarized or omitted, not {given['display']!r}", status=422)
    return {"enable_thinking": kind != "disabled", **({"thinking_budget": budget} if budget else {})}


def _convert_message(message: str, field: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.temperature`" with our field name in front."""
    reason, _, place = message.partition(" - at `$.")
    return f"{field}.{place.rstrip('`')}: {reason}" if place else f"{field}: {reason}"


def check_response_format(value: Mapping[str, Any], field: str) -> None:
    kind = value.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise Invalid(f"{field}.type: must be text, json_object or json_schema, not {kind!r}", status=422)
    if kind != "json_schema":
        return
    given = value.get("json_schema")
    if not isinstance(given, dict) or not isinstance(cast(dict[str, Any], given).get("schema"), dict):
        raise Invalid(f"{field}.json_schema: must be an object with `name` and `schema`", status=422)
    if (why := unsupported(cast(dict[str, Any], given)["schema"])) is not None:
        raise Invalid(f"{field}.json_schema.schema: {why}", status=422)


def _provider_type(agent: Agent) -> str:
    facts = agent.extra.get("model") or {}
    for candidate in (
        agent.model_settings.raw.get("provider_type"),
        facts.get("provider_name"),
        facts.get("endpoint_type"),
    ):
        if candidate in _PROVIDER_TYPES.split():
            return candidate
    return "openai"


def shown_settings(agent: Agent) -> dict[str, Any]:
    """As they were sent, with what was not said filled in by what is done without it."""
    settings = agent.model_settings
    found: dict[str, Any] = {
        "provider_type": _provider_type(agent),
        "parallel_tool_calls": settings.parallel_tool_calls,
        "strict": settings.strict,
        "response_format": settings.response_format,
        **settings.raw,
    }
    for key in _SHOWN_SETTINGS:
        if (value := getattr(settings, key)) is not None:
            found.setdefault(key, value)
    if settings.reasoning_effort is not None and "effort" not in found:
        found.setdefault("reasoning", {"reasoning_effort": settings.reasoning_effort})
    return found


_SHOWN_SETTINGS = ("max_output_tokens", "temperature", "frequency_penalty", "tool_call_parser", "top_logprobs")


def llm_config(agent: Agent) -> dict[str, Any]:
    """The deprecated view of the model and its settings."""
    facts: dict[str, Any] = agent.extra.get("model") or {}
    settings = agent.model_settings
    provider, _, name = agent.model.partition("/")
    found: dict[str, Any] = {
        "model": name,
        "display_name": name,
        "handle": agent.model,
        "model_endpoint_type": facts.get("endpoint_type") or "openai",
        "model_endpoint": facts.get("endpoint"),
        "model_wrapper": None,
        "provider_name": facts.get("provider_name") or provider,
        "provider_category": "base",
        "context_window": agent.context_window,
        "put_inner_thoughts_in_kwargs": agent.agent_type in LEGACY_AGENT_TYPES
        and settings.put_inner_thoughts_in_kwargs is not False,
        "max_tokens": settings.max_output_tokens,
        "enable_reasoner": settings.enable_thinking is not False,
        "reasoning_effort": settings.reasoning_effort,
        "max_reasoning_tokens": settings.thinking_budget or 0,
        "effort": settings.raw.get("effort"),
        "verbosity": settings.raw.get("verbosity"),
        "frequency_penalty": settings.frequency_penalty,
        "compatibility_type": None,
        "tier": None,
        "parallel_tool_calls": settings.parallel_tool_calls,
        "response_format": settings.response_format,
        "strict": settings.strict,
        "return_logprobs": settings.return_logprobs,
        "top_logprobs": settings.top_logprobs,
        "return_token_ids": settings.return_token_ids,
        "tool_call_parser": settings.tool_call_parser,
    }
    if settings.temperature is not None:
        found["temperature"] = settings.temperature
    return found
