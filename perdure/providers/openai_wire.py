"""Chat-completion frames as the API has them: what is read of them, as types the decoder fills fast.

Every field may be missing. What is not named here is skipped unread.
"""

from typing import Any

import msgspec
from msgspec import Struct, field

from perdure.core.model import TokenLogprob
from perdure.core.runs import Usage


class Function(Struct):
    name: str | None = None
    arguments: str | None = None


class CallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: dict[str, Any] | None = None


class Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    reasoning_details: list[Any] | None = None
    tool_calls: list[CallPiece] | None = None


class Top(Struct):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class Token(Top):
    top_logprobs: list[Top] | None = None


class Logprobs(Struct):
    content: list[Token] | None = None


class Choice(Struct):
    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    usage: "WireUsage | None" = None
    error: Any = None


class PromptDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class WireUsage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Groq(Struct):
    """What Groq says beside the choices."""

    usage: WireUsage | None = None
    error: Any = None


class Base(Struct):
    """MiniMax says in an answer of status 200 what is wrong; 0: nothing."""

    status_code: int | None = None
    status_msg: str | None = None


class Frame(Struct):
    choices: list[Choice] = field(default_factory=list)
    usage: WireUsage | None = None
    error: Any = None
    message: Any = None
    object: str | None = None
    id: str | None = None
    model: str | None = None
    x_groq: Groq | None = None
    base_resp: Base | None = None


decode_frame = msgspec.json.Decoder(Frame).decode


def token_logprob(token: Token) -> TokenLogprob:
    top = tuple((each.token, each.logprob, each.bytes) for each in token.top_logprobs or ())
    return TokenLogprob(token.token, token.logprob, token.bytes, top)


def usage_of(usage: WireUsage | None) -> Usage:
    if usage is None:
        return Usage()
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cached, written = usage.prompt_cache_hit_tokens, None
    cached = usage.cached_tokens if cached is None else cached
    if (details := usage.prompt_tokens_details) is not None:
        cached = details.cached_tokens if details.cached_tokens is not None else cached
        written = details.cache_write_tokens
    reasoning = usage.reasoning_tokens
    if usage.completion_tokens_details is not None:
        inner = usage.completion_tokens_details.reasoning_tokens
        reasoning = inner if inner is not None else reasoning
    if reasoning and usage.total_tokens == prompt + completion + reasoning:
        completion += reasoning  # counted beside the completion there, as part of it here
    return Usage(prompt, completion, usage.total_tokens or prompt + completion, cached, written, reasoning)
