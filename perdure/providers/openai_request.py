"""Everything of a chat-completions request but its messages and tools: limits, sampling, thinking, output format.

Pure: a prompt, the provider's dialect and what is known of the model in, fields out. A setting that the provider or the model
does not take is left out, or told in the words it has; one that cannot be kept never makes the call fail.
"""

import re
from typing import Any

from perdure.core.agents import ModelSettings
from perdure.core.model import Prompt
from perdure.providers.dialects import ChatProfile
from perdure.providers.model_traits import ModelTraits
from perdure.providers.structured import format_sent

# Our setting, its name in a request. Those beyond OpenAI's own are sent where the dialect lists them.
_SAMPLING = (("temperature", "temperature"), ("top_p", "top_p"))
_PENALTIES = (("frequency_penalty", "frequency_penalty"), ("presence_penalty", "presence_penalty"))
_EXTRA_SAMPLING = (
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("repetition_penalty", "repetition_penalty"),
    ("repetition_penalty", "repeat_penalty"),
)


def refused(model: str, profile: ChatProfile, traits: ModelTraits) -> frozenset[str]:
    """The settings a model refuses, wherever it is served or here alone."""
    name = model.rpartition("/")[2].lower()
    return traits.drop.union(*(names for pattern, names in profile.refuses if re.match(pattern, name)))


def request_fields(
    prompt: Prompt, profile: ChatProfile, traits: ModelTraits, *, stream: bool, drop: frozenset[str]
) -> dict[str, Any]:
    """All of the request but model, messages and tools."""
    settings = prompt.settings
    fields: dict[str, Any] = {}
    if stream:
        fields["stream"] = True
        if profile.stream_usage:
            fields["stream_options"] = {"include_usage": True}
    if settings.max_output_tokens is not None:
        fields[traits.max_tokens or profile.max_tokens] = settings.max_output_tokens
    for ours, theirs in (*_SAMPLING, *(_PENALTIES if profile.penalties else ())):
        if (value := getattr(settings, ours)) is not None:
            fields[theirs] = value
    for ours, theirs in _EXTRA_SAMPLING:
        if theirs in profile.sampling and (value := getattr(settings, ours)) is not None:
            fields[theirs] = value
    if settings.seed is not None and profile.seed is not None:
        fields[profile.seed] = settings.seed
    if settings.stop:
        fields["stop"] = settings.stop
    if (form := format_sent(prompt, profile)) is not None:
        fields["response_format"] = form
    fields |= _thinking(settings, profile)
    if profile.verbosity and settings.verbosity is not None:
        fields["verbosity"] = settings.verbosity
    if prompt.want_logprobs and profile.logprobs:
        fields["logprobs"] = True
        if prompt.top_logprobs:
            fields["top_logprobs"] = prompt.top_logprobs
    if prompt.tools:
        fields |= _tool_choice(prompt, profile)
        if stream:
            fields |= profile.tools_extra
    for name in drop:
        fields.pop(name, None)
    if "logprobs" not in fields:
        fields.pop("top_logprobs", None)
    return {**fields, **profile.extra}


def _thinking(settings: ModelSettings, profile: ChatProfile) -> dict[str, Any]:
    effort, wanted = settings.reasoning_effort, settings.enable_thinking
    fields: dict[str, Any] = {}
    if wanted is not None and profile.template_kwargs:
        fields["chat_template_kwargs"] = {"enable_thinking": wanted}
    if profile.thinking is not None:
        wanted = False if wanted is None and effort == "none" else wanted
        if wanted is not None:
            fields["thinking"] = {"type": profile.thinking[0 if wanted else 1]}
        effort = None if wanted is False else effort
    if profile.reasoning_object:
        reasoning = {"effort": effort} if effort is not None else {"enabled": wanted} if wanted is not None else None
        return {**fields, "reasoning": reasoning} if reasoning is not None else fields
    if effort is not None and profile.reasoning_effort:
        fields["reasoning_effort"] = effort
    return fields


def _tool_choice(prompt: Prompt, profile: ChatProfile) -> dict[str, Any]:
    choice = prompt.tool_choice
    fields: dict[str, Any] = {}
    if choice not in ("auto", "none", "required"):
        if profile.named:
            fields["tool_choice"] = {"type": "function", "function": {"name": choice}}
            choice = "auto"
        else:
            choice = "required"
    if choice == "none":
        fields["tool_choice"] = "none"
    elif choice == "required" and profile.required is not None:
        fields["tool_choice"] = profile.required
    if not prompt.parallel_tool_calls and profile.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields
