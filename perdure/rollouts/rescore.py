"""Scores what is on record by the weights that are served now: what importance ratios and staleness are made of.

Invariant: a ratio is given only between logprobs of one meaning. Where the recorded ones mean something else it is null, and why
is said.
"""

from array import array
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from perdure.core.agents import ModelSettings
from perdure.core.errors import Invalid, NotFound
from perdure.providers.registry import Registry
from perdure.providers.scoring import scorer_of
from perdure.runs.trajectories import rollouts
from perdure.store import ledger
from perdure.store import rollouts as rollout_store
from perdure.store.base import Store, Tx
from perdure.tokens.record import Call, Rollout, SegmentRecord
from perdure.tokens.verify_logprobs import comparable

_BY_CHAT = ModelSettings(wire_api="chat")
KINDS = "a rollout, run, conversation, agent or segment"


async def rescored(store: Store, registry: Registry, wanted: str, *, model: str | None = None) -> list[dict[str, Any]]:
    """One entry a segment. `model`: the handle that is asked, else each segment's own. NotFound, Invalid."""
    named, segment_id = await store.read(lambda: _named(wanted))
    found: list[dict[str, Any]] = []
    async for record in _records(store, named):
        rollout = msgspec.convert(record, Rollout)
        for segment in rollout.segments:
            if segment_id in (None, segment.segment_id):
                found.append(await _segment(registry, rollout, segment, model))
    if not found:
        raise NotFound(f"{wanted} has no token record.")
    return found


def _records(store: Store, named: str) -> AsyncIterator[dict[str, Any]]:
    if named.startswith("run-"):
        return rollouts(store, run_id=named)
    return rollouts(store, conversation_id=named)


def _named(wanted: str) -> Tx[tuple[str, str | None]]:
    """The run or conversation an id stands for, and the segment where it is one. NotFound, Invalid."""
    kind = wanted.partition("-")[0]
    if kind in ("run", "conv", "agent"):
        return wanted, None
    if kind == "segment":
        held = yield from ledger.segment_with_calls(wanted)
        if held is None:
            raise NotFound(f"Segment {wanted} not found")
        return held[0].conversation_id, wanted
    if kind != "rollout":
        raise Invalid(f"{wanted!r} is the id of nothing on record: give that of {KINDS}.", status=422)
    rest = wanted.removeprefix("rollout-")
    if rest.partition("-")[0] in ("run", "conv", "agent"):
        return rest, None
    attempt = yield from rollout_store.attempt_by_id(wanted)
    if attempt.agent_id is None:
        raise NotFound(f"{wanted} has not begun: nothing of it is on record.")
    return attempt.agent_id, None


async def _segment(registry: Registry, rollout: Rollout, segment: SegmentRecord, handle: str | None) -> dict[str, Any]:
    handle = handle or (segment.model or rollout.model).handle
    own = segment.tokenizer or rollout.tokenizer
    # a record without a tokenizer is of a server that wrote its prompts itself, and it alone knows the ids
    resolved = await registry.resolve(handle, settings=None if own else _BY_CHAT, require_exact=True)
    scorer = scorer_of(resolved.model)
    if scorer is None:
        raise Invalid(f"model: {handle} takes text, not token ids; it cannot score a token record.")
    if (own and own.sha256) != (scorer.tokenizer and scorer.tokenizer.sha256):
        raise Invalid(f"model: {handle} has another tokenizer than segment {segment.segment_id} was sampled with.")
    answer: dict[str, Any] = {
        name: [] for name in ("positions", "token_ids", "loss_mask", "recorded", "logprobs", "log_ratios")
    }
    made: list[dict[str, Any]] = []
    for call in rollout.calls:
        if call.segment_index != segment.index or not call.length:
            continue
        end = call.start + call.length
        ids = array("i", segment.token_ids[:end])
        logprobs = await scorer.engine.score(resolved.name, ids, call.start, scorer.vocab_size)
        why = comparable(call)
        made.append(_call(call, why))
        answer["positions"] += range(call.start, end)
        answer["token_ids"] += call.token_ids
        answer["loss_mask"] += segment.loss_mask[call.start : end]
        answer["recorded"] += call.logprobs
        answer["logprobs"] += logprobs
        answer["log_ratios"] += [
            None if why is not None or before is None else after - before
            for before, after in zip(call.logprobs, logprobs, strict=True)
        ]
    trained = [ratio for ratio, mask in zip(answer["log_ratios"], answer["loss_mask"], strict=True) if mask]
    return {
        "segment_id": segment.segment_id,
        "rollout_id": rollout.rollout_id,
        "model": handle,
        "trained_tokens": len(trained),
        "log_ratio": None if not trained or None in trained else sum(trained),
        "calls": made,
        **answer,
    }


def _call(call: Call, why: str | None) -> dict[str, Any]:
    return {
        "call_id": call.call_id,
        "start": call.start,
        "length": call.length,
        "logprob_semantics": call.logprob_semantics,
        "weight_versions": msgspec.to_builtins(call.weight_versions),
        "incomparable": None if why is None else f"its logprobs {why}",
    }
