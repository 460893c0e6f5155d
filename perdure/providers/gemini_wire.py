"""Gemini's generateContent as the API has it: what is read of an answer.

Every field may be missing. What is not named here is skipped unread.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from perdure.core.model import TokenLogprob
from perdure.core.runs import Usage


class FunctionCall(Struct):
    """`args` stays as it was written."""

    name: str | None = None
    id: str | None = None
    args: Raw = field(default_factory=Raw)


class Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None


class Content(Struct):
    parts: list[Part] | None = None


class Chosen(Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class Top(Struct):
    candidates: list[Chosen] | None = None


class Logprobs(Struct, rename="camel"):
    chosen_candidates: list[Chosen] | None = None
    top_candidates: list[Top] | None = None


class Candidate(Struct, rename="camel"):
    index: int = 0
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: Logprobs | None = None


class Feedback(Struct, rename="camel"):
    block_reason: str | None = None
    block_reason_message: str | None = None


class WireUsage(Struct, rename="camel"):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None
    total_token_count: int | None = None


class Frame(Struct, rename="camel"):
    """One piece of a streamed answer, or all of one that is not; both have the same form."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: WireUsage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


decode_frame = msgspec.json.Decoder(Frame).decode
decode_frames = msgspec.json.Decoder(list[Frame]).decode


def usage_of(usage: WireUsage | None) -> Usage:
    """Thinking is counted beside the answer there, and as part of the completion here."""
    if usage is None:
        return Usage()
    prompt = (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)
    completion = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    total = usage.total_token_count or prompt + completion
    return Usage(prompt, completion, total, usage.cached_content_token_count, None, usage.thoughts_token_count)


def token_logprobs(result: Logprobs) -> list[TokenLogprob]:
    tops = result.top_candidates or ()
    found: list[TokenLogprob] = []
    for at, chosen in enumerate(result.chosen_candidates or ()):
        likely = (tops[at].candidates or ()) if at < len(tops) else ()
        top = tuple((each.token, each.log_probability, None) for each in likely)
        found.append(TokenLogprob(chosen.token, chosen.log_probability, None, top))
    return found
