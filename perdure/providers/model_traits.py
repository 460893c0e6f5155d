"""What is known of models by their names, as data.

Invariant: a model's name is read here and nowhere else (Claude's in `claude_models.py`); code asks what is known of it.
"""

import re
from typing import Literal

import msgspec
from msgspec import Struct


class ModelTraits(Struct, frozen=True, kw_only=True):
    """What is known of a model by its name: `drop` are settings it refuses; `reasons` None: not known.

    `thinking`: the measure Gemini models are told how much to think in; `least_thinking`: the least of it. `call_signature`: what
    stands in for the signature of a call that has none, where a model takes no call without.
    """

    context_window: int | None = None
    max_tokens: Literal["max_tokens", "max_completion_tokens"] | None = None
    drop: frozenset[str] = frozenset()
    reasons: bool | None = None
    thinking: Literal["level", "budget"] | None = None
    least_thinking: str | int = 0
    call_signature: str | None = None


_REASONERS = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "stop"})


def _reasoner(window: int, *more: str) -> ModelTraits:
    drop = _REASONERS | frozenset(more)
    return ModelTraits(context_window=window, max_tokens="max_completion_tokens", drop=drop, reasons=True)


def _chatter(window: int, max_tokens: Literal["max_completion_tokens"] | None = None) -> ModelTraits:
    return ModelTraits(context_window=window, max_tokens=max_tokens, reasons=False)


def _gemini_3(least_thinking: str) -> ModelTraits:
    signature = "skip_thought_signature_validator"
    return msgspec.structs.replace(_GEMINI, thinking="level", least_thinking=least_thinking, call_signature=signature)


_GEMINI = ModelTraits(context_window=1_048_576, reasons=True, thinking="budget")

# First match wins; a model newer than all of these is taken to be like the newest. Context windows from the makers' public
# model pages, as of November 2026.
_TRAITS: tuple[tuple[re.Pattern[str], ModelTraits], ...] = tuple(
    (re.compile(pattern), traits)
    for pattern, traits in (
        (r"gpt-5[\w.]*-chat", _chatter(128_000, max_tokens="max_completion_tokens")),
        (r"chat-latest", _chatter(400_000, max_tokens="max_completion_tokens")),
        (r"gpt-5\.3-codex-spark", _reasoner(128_000)),
        (r"gpt-5(?![.\d])|gpt-5\.[0-3](?!\d)|gpt-5\.[45]-(?:mini|nano|instant)", _reasoner(400_000)),
        (r"gpt-(?:[5-9]|\d\d)", _reasoner(1_050_000)),
        (r"o1-mini", _reasoner(128_000, "parallel_tool_calls")),
        (r"o[134](-|$)", _reasoner(200_000, "parallel_tool_calls")),
        (r"codex-mini", _reasoner(200_000)),
        (r"gpt-4\.1", _chatter(1_047_576)),
        (r"gpt-4o|chatgpt-4o|gpt-4-turbo", _chatter(128_000)),
        (r"gpt-4-32k", _chatter(32_768)),
        (r"gpt-4($|-)", _chatter(8_192)),
        (r"gpt-3\.5-turbo-instruct", _chatter(4_096)),
        (r"gpt-3\.5", _chatter(16_385)),
        (r"gemini-3-flash|gemini-3[\d.]*-flash-lite", _gemini_3("minimal")),
        (r"gemini-(?:[3-9]|\d\d)", _gemini_3("low")),
        (r"gemini-2\.5-pro", msgspec.structs.replace(_GEMINI, least_thinking=128)),
        (r"gemini-2\.5", _GEMINI),
        (r"gemini-2\.0", ModelTraits(context_window=1_048_576, reasons=False)),
        (r"gpt-oss", ModelTraits(context_window=131_072, reasons=True)),
    )
)
_UNKNOWN = ModelTraits()


def traits_of(model: str) -> ModelTraits:
    """By the model's name without its maker (`openai/gpt-5` is `gpt-5`)."""
    name = model.rpartition("/")[2].lower()
    return next((traits for pattern, traits in _TRAITS if pattern.match(name)), _UNKNOWN)
