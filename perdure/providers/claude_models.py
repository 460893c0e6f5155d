"""What each Claude model takes and can do, as data: windows, limits, thinking, effort, sampling.

Invariant: nothing else in the code knows a Claude model by its name. Figures and rules from Anthropic's model pages and its
tables of thinking, effort and structured outputs; a model newer than all of these is taken to be like the newest.
"""

import re
from typing import Literal

from msgspec import Struct

Thinking = Literal["adaptive", "enabled", "disabled", "between_tools"]
Effort = Literal["low", "medium", "high", "xhigh", "max"]

ROOMY_OUTPUT = 32_000
PLAIN_OUTPUT = 8_192


class ClaudeTraits(Struct, frozen=True, kw_only=True):
    """One model.

    `max_output`: the most `max_tokens` may be; None: unknown. `thinking`: the `thinking.type` values it takes; `thinks`: it
    thinks when nothing is said. `forces_tools`: it can be told to call a tool. `interleaves`: it needs a beta header to think
    between tool calls. `sampling`: it takes temperature, top_p and top_k at all. `one_of_two`: temperature or top_p, not both.
    `structured`: it can be held to a JSON schema. `eager_tools`: it can give a call's arguments as it writes them. `caches`: it
    takes cache breakpoints. `wide_limit`: a prompt and `max_tokens` that exceed the window together are no error.
    """

    context_window: int | None = 200_000
    max_output: int | None = 64_000
    thinking: frozenset[Thinking] = frozenset()
    thinks: bool = False
    effort: tuple[Effort, ...] = ()
    forces_tools: bool = True
    interleaves: bool = False
    sampling: bool = True
    one_of_two: bool = False
    structured: bool = False
    eager_tools: bool = False
    caches: bool = True
    wide_limit: bool = True

    @property
    def usual_output(self) -> int:
        """`max_tokens` where nobody said one: the API wants it said."""
        if self.max_output is None:
            return PLAIN_OUTPUT
        return min(self.max_output, ROOMY_OUTPUT if self.wide_limit else PLAIN_OUTPUT)


_LEVELS: tuple[Effort, ...] = ("low", "medium", "high")
_TO_MAX: tuple[Effort, ...] = (*_LEVELS, "max")
_ALL: tuple[Effort, ...] = (*_LEVELS, "xhigh", "max")
_ADAPTIVE: frozenset[Thinking] = frozenset({"adaptive"})
_BOTH: frozenset[Thinking] = frozenset({"adaptive", "enabled", "disabled"})
_MANUAL: frozenset[Thinking] = frozenset({"enabled", "disabled"})


def _fifth(thinking: frozenset[Thinking], *, thinks: bool = True, forces_tools: bool = True) -> ClaudeTraits:
    """The generation of 4.7 and later: adaptive thinking, no sampling settings, a window of a million tokens."""
    return ClaudeTraits(
        context_window=1_000_000,
        max_output=128_000,
        thinking=thinking,
        thinks=thinks,
        effort=_ALL,
        forces_tools=forces_tools,
        sampling=False,
        structured=True,
        eager_tools=True,
    )


def _sixth_of_four(context_window: int = 1_000_000) -> ClaudeTraits:
    return ClaudeTraits(
        context_window=context_window,
        max_output=128_000,
        thinking=_BOTH,
        effort=_TO_MAX,
        one_of_two=True,
        structured=True,
        eager_tools=True,
    )


def _fourth(max_output: int, *, effort: tuple[Effort, ...] = (), interleaves: bool = True) -> ClaudeTraits:
    return ClaudeTraits(
        max_output=max_output,
        thinking=_MANUAL,
        effort=effort,
        interleaves=interleaves,
        one_of_two=True,
        structured=True,
        eager_tools=True,
    )


_ALWAYS_ON = _fifth(_ADAPTIVE, forces_tools=False)
_OFF_ABLE: frozenset[Thinking] = frozenset({"adaptive", "disabled"})

# First match wins. Bedrock's and Vertex's names hold the same `claude-...` in other surroundings.
_TRAITS: tuple[tuple[re.Pattern[str], ClaudeTraits], ...] = tuple(
    (re.compile(pattern), traits)
    for pattern, traits in (
        (r"claude-mythos-preview", _fifth(frozenset({"adaptive", "enabled"}))),
        (r"claude-(?:fable|mythos)-5(?!-\d\b)", _fifth(_ADAPTIVE)),
        (r"claude-(?:fable|mythos)-", _ALWAYS_ON),
        (r"claude-opus-5(?!-\d\b)", _fifth(_OFF_ABLE)),
        (r"claude-sonnet-5(?!-\d\b)", _fifth(_OFF_ABLE)),
        (r"claude-sonnet-5-\d", _fifth(frozenset({"adaptive", "between_tools"}), forces_tools=False)),
        (r"claude-haiku-5", _fifth(_OFF_ABLE)),
        (r"claude-opus-4-[789]", _fifth(_OFF_ABLE, thinks=False)),
        (r"claude-(?:opus|sonnet)-4-6", _sixth_of_four()),
        (r"claude-opus-4-5", _fourth(64_000, effort=_LEVELS)),
        (r"claude-sonnet-4-5", _fourth(64_000)),
        (r"claude-haiku-4-5", _fourth(64_000, interleaves=False)),
        (
            r"claude-(?:opus-4(?:-[01])?|4-opus)(?!\d)",
            ClaudeTraits(max_output=32_000, thinking=_MANUAL, interleaves=True, one_of_two=True, wide_limit=False),
        ),
        (
            r"claude-(?:sonnet-4(?:-0)?|4-sonnet)(?!\d)",
            ClaudeTraits(max_output=64_000, thinking=_MANUAL, interleaves=True, wide_limit=False),
        ),
        (r"claude-3-7", ClaudeTraits(max_output=64_000, thinking=_MANUAL, wide_limit=False)),
        (r"claude-3-5", ClaudeTraits(max_output=8_192, wide_limit=False)),
        (r"claude-3-haiku", ClaudeTraits(max_output=4_096, wide_limit=False)),
        (r"claude-3-", ClaudeTraits(max_output=4_096, caches=False, wide_limit=False)),
        (r"claude-2\.1", ClaudeTraits(max_output=4_096, caches=False, wide_limit=False)),
        (
            r"claude-(?:2|v2|instant)",
            ClaudeTraits(context_window=100_000, max_output=4_096, caches=False, wide_limit=False),
        ),
        (r"claude-", _ALWAYS_ON),
    )
)
# Somebody else's model behind the same API: nothing is known of it, so nothing unusual is asked of it.
_OTHER = ClaudeTraits(context_window=None, max_output=None, thinking=_MANUAL, wide_limit=False)


def claude_traits(model: str) -> ClaudeTraits:
    """By the model's name, also as Bedrock and Vertex write it (`us.anthropic.claude-...-v1:0`, `claude-...@20250514`)."""
    name = model.lower()
    return next((traits for pattern, traits in _TRAITS if pattern.search(name)), _OTHER)
