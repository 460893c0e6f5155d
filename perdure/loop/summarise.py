"""Asks a model for the summary of a part of a conversation: one attempt, with one model, in one way.

Invariant: what the model is shown fits its window, by its own tokenizer where that is known; the answer is text, or the attempt
has failed.
"""

import time
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.agents import CompactionMode, CompactionSettings, ModelSettings
from perdure.core.errors import AgentError, ProviderError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import TextPart
from perdure.core.model import ModelDone, Prompt
from perdure.core.runs import Step
from perdure.loop.turn import Turn
from perdure.memory import summary as texts
from perdure.providers.base import CountsTokens, Model, TokenStream

SHRINKINGS = 4
CHARS_PER_TOKEN = 3.0
LONG_REQUEST, LONG_INSTRUCTIONS = 0.04, 0.2  # of the window: more than that is not spent on telling what to do
SELF_MODES = ("self_compact_all", "self_compact_sliding_window")


class Summarizer(Struct, frozen=True, kw_only=True):
    """A model that can write a summary. `own`: it is the agent's. `window`: its context window in tokens, if known."""

    model: Model
    handle: str
    name: str
    provider_name: str
    endpoint: str | None
    settings: ModelSettings
    window: int | None
    own: bool


class Assignment(Struct, frozen=True, kw_only=True):
    """What one attempt is to summarise: the first `cut` messages of the context, in about `tokens` tokens."""

    mode: CompactionMode
    cut: int
    tokens: int
    settings: CompactionSettings


class Attempt(Struct, frozen=True, kw_only=True):
    """One call for a summary, to be put on record. `summary` is set, or `error`. `extends`: its token record goes on in the
    conversation's own stream, not in a segment apart."""

    step: Step
    extends: bool
    summary: str | None = None
    done: ModelDone | None = None
    error: AgentError | None = None


async def attempt_summary(turn: Turn, summarizer: Summarizer, assignment: Assignment) -> Attempt:
    """Never raises an AgentError: it is the attempt's outcome."""
    started_us, started_ns = now_us(), time.perf_counter_ns()
    step_id = new_id("step")
    done: ModelDone | None = None
    error: AgentError | None = None
    try:
        if assignment.mode in SELF_MODES:
            done = await _asked_itself(turn, summarizer, assignment, step_id)
        else:
            done = await _asked_of_transcript(turn, summarizer, assignment, step_id)
        summary = "".join(part.text for part in done.content if isinstance(part, TextPart)).strip()
        if not summary:
            raise ProviderError(f"{summarizer.handle} wrote no summary.", kind="llm_empty_response")
    except AgentError as failure:
        summary, error = None, failure
    took = time.perf_counter_ns() - started_ns
    step = Step(
        id=step_id,
        run_id=turn.run.id,
        agent_id=turn.agent.id,
        conversation_id=turn.run.conversation_id,
        created_us=started_us,
        status="success" if error is None else "failed",
        call_type="summarization",
        provider_name=summarizer.provider_name,
        model=(done.model if done else None) or summarizer.name,
        model_handle=summarizer.handle,
        model_endpoint=summarizer.endpoint,
        context_window=summarizer.window,
        step_start_ns=started_us * 1000,
        llm_request_start_ns=started_us * 1000,
        llm_request_ns=took,
        step_ns=took,
    )
    if done is not None:
        step = msgspec.structs.replace(step, usage=done.usage, not_exact=done.not_exact)
    if error is not None:
        kind = error.kind if isinstance(error, ProviderError) else "internal_error"
        step = msgspec.structs.replace(step, error_type=kind, error_data={"message": error.message})
    return Attempt(
        step=step,
        extends=assignment.mode in SELF_MODES and assignment.cut == len(turn.context),
        summary=summary,
        done=_as_summarization(done, summarizer, assignment),
        error=error,
    )


def _as_summarization(done: ModelDone | None, summarizer: Summarizer, assignment: Assignment) -> ModelDone | None:
    """The answer with its token record marked for what it is: no step of the agent's own."""
    if done is None or done.capture is None:
        return done
    call, segment = done.capture.call, done.capture.segment
    trainable = call.trainable and summarizer.own and assignment.settings.train_summaries
    call = msgspec.structs.replace(call, call_type="summarization", trainable=trainable)
    if segment is not None:
        settings = {**segment.settings, "call_type": "summarization"}
        segment = msgspec.structs.replace(segment, settings=settings)
    capture = msgspec.structs.replace(done.capture, call=call, segment=segment)
    return msgspec.structs.replace(done, capture=capture)


async def _asked_itself(turn: Turn, summarizer: Summarizer, assignment: Assignment, step_id: str) -> ModelDone:
    """In the agent's own context, after its own prompt, so that what the engine has in its cache serves again."""
    everything = assignment.cut == len(turn.context)
    words = _words(assignment)
    request = texts.self_request(assignment.settings, words=words, everything=everything, brief=False)
    if _takes(summarizer, request[0].text) > LONG_REQUEST:
        request = texts.self_request(assignment.settings, words=words, everything=everything, brief=True)
    prompt = _prompt(
        turn,
        summarizer,
        step_id,
        system=turn.system_text,
        system_message_id=turn.system.id,
        messages=[*turn.context[: assignment.cut], *request],
        tools=turn.specs,
        settings=_for_summary(turn.agent.model_settings, None),
        thinking_retention=turn.agent.thinking_retention,
    )
    tokens = turn.tokens
    if tokens is not None and not everything:
        tokens = _branch(tokens)
    return await _call(summarizer, prompt, tokens)


async def _asked_of_transcript(turn: Turn, summarizer: Summarizer, assignment: Assignment, step_id: str) -> ModelDone:
    """Of the messages written out as a text that fits the summarizer's window, however long they are."""
    everything = assignment.cut == len(turn.context)
    words = _words(assignment)
    told = texts.instructions(assignment.settings, words=words, everything=everything, brief=False)
    if _takes(summarizer, told) > LONG_INSTRUCTIONS:
        told = texts.instructions(assignment.settings, words=words, everything=everything, brief=True)
    counts = summarizer.model if isinstance(summarizer.model, CountsTokens) else None
    output = assignment.tokens if counts is not None else None
    settings = _for_summary(summarizer.settings, output)
    if counts is not None and settings.enable_thinking is None:
        settings = msgspec.structs.replace(settings, enable_thinking=False)
    budget = None
    if summarizer.window is not None:
        fixed = counts.count_text(told) if counts is not None else len(told) / CHARS_PER_TOKEN
        budget = max(64, int(0.95 * summarizer.window - fixed - assignment.tokens - 64))
    limit = _characters(turn, assignment, counts, budget)
    for last in (False,) * (SHRINKINGS - 1) + (True,):
        text = texts.transcript(turn.context[: assignment.cut], limit)
        system, messages = texts.summarizer_messages(assignment.settings, told, text)
        prompt = _prompt(turn, summarizer, step_id, system=system, messages=messages, settings=settings)
        try:
            return await _call(summarizer, prompt, _apart(turn.tokens))
        except ProviderError as error:
            if error.kind != "context_window_exceeded" or last:
                raise
            limit = max(200, min(limit, len(text)) // 2)
    raise AssertionError("unreachable")


def _takes(summarizer: Summarizer, text: str) -> float:
    """The share of the summarizer's window that a text takes; 0 where the window is not known."""
    if summarizer.window is None:
        return 0.0
    model = summarizer.model
    tokens = model.count_text(text) if isinstance(model, CountsTokens) else len(text) / CHARS_PER_TOKEN
    return tokens / summarizer.window


def _characters(turn: Turn, assignment: Assignment, counts: CountsTokens | None, budget: int | None) -> int:
    """How long a transcript may be to take `budget` tokens at most."""
    if budget is None:
        return 10_000_000
    if counts is None:
        return int(budget * CHARS_PER_TOKEN)
    limit = budget * 8
    for _ in range(8):
        text = texts.transcript(turn.context[: assignment.cut], limit)
        tokens = counts.count_text(text)
        if tokens <= budget:
            break
        limit = int(min(limit, len(text)) * budget / tokens * 0.97)
    return limit


def _words(assignment: Assignment) -> int:
    """What a model can be asked for in words: about six for every ten tokens."""
    limit = assignment.settings.clip_chars
    words = assignment.tokens * 6 // 10
    return max(20, words if limit is None else min(words, limit // 7))


def _for_summary(settings: ModelSettings, max_output_tokens: int | None) -> ModelSettings:
    """A model's settings without what shapes an agent's answers: format, stops, records."""
    return msgspec.structs.replace(
        settings,
        max_output_tokens=settings.max_output_tokens if max_output_tokens is None else max_output_tokens,
        response_format=None,
        stop=(),
        return_logprobs=False,
        top_logprobs=None,
        return_token_ids=False,
    )


def _prompt(turn: Turn, summarizer: Summarizer, step_id: str, **given: Any) -> Prompt:
    return Prompt(
        model=summarizer.name,
        tool_choice="none",
        context_window=summarizer.window or turn.agent.context_window,
        model_handle=summarizer.handle,
        assistant_message_id=new_id("message"),
        agent_id=turn.agent.id,
        conversation_id=turn.run.conversation_id,
        run_id=turn.run.id,
        step_id=step_id,
        **given,
    )


async def _call(summarizer: Summarizer, prompt: Prompt, tokens: TokenStream | None) -> ModelDone:
    async with aclosing(summarizer.model.stream(prompt, tokens)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            if batch and isinstance(batch[-1], ModelDone):
                return batch[-1]
    raise ProviderError(f"The summary ended early ({summarizer.handle}).")


def _branch(tokens: TokenStream) -> TokenStream:
    """The same stream, to be left where the summary's prompt leaves it: a segment of its own, with this one as its parent."""
    branch = TokenStream()
    branch.segment, branch.ids, branch.last_index = tokens.segment, tokens.ids, tokens.last_index
    branch.break_cause = ("compaction", "a summary is written of the messages so far")
    return branch


def _apart(tokens: TokenStream | None) -> TokenStream:
    """A stream of its own for a prompt that has nothing of the conversation's."""
    apart = TokenStream()
    apart.last_index = tokens.last_index if tokens is not None else -1
    apart.break_cause = ("compaction", "a summary is written of a transcript")
    return apart
