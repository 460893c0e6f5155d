"""A generation that an engine broke off for its own reasons (a weight update, a pause) goes on from the ids it has sampled.

Invariant: every id given out is in exactly one attempt, and the attempts one after the other are the completion. A caller that
closes the iterator has cancelled: nothing is asked again.
"""

import asyncio
import uuid
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.tokens import Finish, GenerationAttempt, VersionSpan
from perdure.providers.base import TokenBatch, TokenDone, TokenEngine, TokenRequest
from perdure.providers.experts import ExpertsAsked, one_after_another

MAX_RESUMES = 8
WAIT_S = 0.05  # doubled with each attempt in a row that sampled nothing
UNKNOWN_VERSION = "unknown"


async def resumed(engine: TokenEngine, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone]:
    """As `engine.generate`, but an answer that the engine aborts is asked for again: its prompt and what was sampled so far,
    with as many ids less to sample. The one TokenDone speaks of the whole; `attempts` are there if it took more than one.

    ProviderError after MAX_RESUMES, and for an answer under a grammar: an engine would begin that grammar anew.
    """
    sampled: array[int] = array("i")
    ends: list[_End] = []
    asked, idle = request, 0
    while True:
        done: TokenDone | None = None
        begun = len(sampled)
        async with aclosing(engine.generate(asked)) as answer:  # type: ignore[type-var]
            async for item in answer:
                if isinstance(item, TokenDone):
                    done = item
                    break
                sampled.extend(item.ids)
                yield item
        if done is None:
            raise ProviderError(
                f"The engine at {engine.base_url} ended the answer of {request.model} without saying why.",
                kind="llm_connection",
            )
        if done.finish.type != "abort" and not ends:
            yield done
            return
        ends.append(_End(begun, len(sampled), done, done.base_url or engine.base_url))
        finish = _finish(done.finish, sampled, request)
        if finish.type != "abort":
            yield _whole(ends, finish)
            return
        _check_resumable(engine, request, len(ends), bool(sampled))
        idle = idle + 1 if len(sampled) == begun else 0
        if idle:
            await asyncio.sleep(WAIT_S * 2 ** (idle - 1))
        asked = msgspec.structs.replace(
            request,
            ids=request.ids + sampled,
            request_id=uuid.uuid4().hex,
            max_tokens=request.max_tokens - len(sampled),
            # what the engine sampled are ids of its model, also where that has more rows than the tokenizer has ids
            vocab_size=max(request.vocab_size, max(sampled, default=0) + 1),
            experts=_rest_of_experts(asked, done),
        )


class _End(msgspec.Struct, frozen=True):
    """Completion ids [start, end) of one attempt, and how it ended."""

    start: int
    end: int
    done: TokenDone
    base_url: str


def _finish(told: Finish, sampled: "array[int]", request: TokenRequest) -> Finish:
    """What the end of an attempt is to the whole: an abort that came after the last id of all is no abort."""
    if told.type != "abort" or not sampled:
        return told
    if sampled[-1] in request.stop_token_ids:
        return Finish("stop", sampled[-1], told.raw)
    return Finish("length", None, told.raw) if len(sampled) >= request.max_tokens else told


def _rest_of_experts(asked: TokenRequest, done: TokenDone) -> ExpertsAsked | None:
    """Rows are asked for from where the attempts so far have left off, whether the last one told any or not."""
    if asked.experts is None or done.experts is None:
        return asked.experts
    return msgspec.structs.replace(asked.experts, start=done.experts.start + done.experts.count)


def _check_resumable(engine: TokenEngine, request: TokenRequest, attempts: int, partial: bool) -> None:
    if partial and request.grammar is not None:
        raise ProviderError(
            f"The engine at {engine.base_url} broke off an answer that has a prescribed form; such an answer cannot be "
            "continued. Send the message again.",
            kind="llm_connection",
        )
    if attempts > MAX_RESUMES:
        raise ProviderError(
            f"The engine at {engine.base_url} broke off the answer of {request.model} {attempts} times. Is it updating its "
            "weights all the time, or shutting down? Send the message again.",
            kind="llm_connection",
        )


def _whole(ends: Sequence[_End], finish: Finish) -> TokenDone:
    first, last = ends[0].done, ends[-1].done
    told = [end.done.retractions for end in ends if end.done.retractions is not None]
    return TokenDone(
        finish=finish,
        prompt_tokens=first.prompt_tokens,
        cached_tokens=first.cached_tokens,
        retractions=sum(told) if told else None,
        versions=_versions(ends),
        engine_request_id=last.engine_request_id,
        request=first.request,
        response={"attempts": [end.done.response for end in ends]},
        base_url=ends[-1].base_url,
        attempts=tuple(_attempt(end) for end in ends),
        experts=one_after_another([end.done.experts for end in ends], ends[-1].base_url),
    )


def _attempt(end: _End) -> GenerationAttempt:
    done = end.done
    return GenerationAttempt(
        start=end.start,
        length=end.end - end.start,
        finish=done.finish,
        engine_request_id=done.engine_request_id,
        engine_base_url=end.base_url,
        cached_tokens=done.cached_tokens,
        retractions=done.retractions,
    )


def _versions(ends: Sequence[_End]) -> tuple[VersionSpan, ...]:
    """The attempts' spans in the whole completion; () where no attempt told any."""
    if not any(end.done.versions for end in ends):
        return ()
    spans: list[VersionSpan] = []
    for end in ends:
        size = end.end - end.start
        for span in end.done.versions or (VersionSpan(UNKNOWN_VERSION, 0, size),):
            if span.start == span.end:
                continue
            begins, ending = end.start + span.start, end.start + span.end
            if spans and spans[-1].version == span.version and spans[-1].end == begins:
                begins = spans.pop().start
            spans.append(VersionSpan(span.version, begins, ending))
    return tuple(spans)
