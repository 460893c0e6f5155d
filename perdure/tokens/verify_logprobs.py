"""L5: the engine's own forward pass over each recorded stream gives the logprobs that were recorded with it.

A forward pass gives raw logprobs, so a call is compared only where its own are raw: declared so, or sampled with nothing that
changes them (a temperature, a penalty, a grammar). Every other call is counted in a note.
"""

import math
from collections.abc import Callable

from perdure.core.errors import AgentError
from perdure.tokens.record import Call, Rollout
from perdure.tokens.verify_report import Findings, LogprobStats

Score = Callable[[str, list[int], int], list[float]]
"""(model handle, ids, start) -> raw logprobs of ids[start:], each given all ids before it."""

TOLERANCE = 0.02
# llama.cpp's kernels for quantised weights read a prompt in one batch and the same ids one by one with differences of tenths
TOLERANCE_BY_ENGINE = {"llamacpp": 0.05}
TAIL = 10.0
_PENALTIES = {"frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1}


class Differences:
    """Over a whole file: every |recorded - recomputed|, and where the largest is."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.worst: tuple[float, Findings, int, int, Call] | None = None
        self.tolerance = TOLERANCE

    def add(self, difference: float, found: Findings, segment: int, position: int, call: Call) -> None:
        self.values.append(difference)
        self.tolerance = max(self.tolerance, TOLERANCE_BY_ENGINE.get(call.engine.kind, TOLERANCE))
        if self.worst is None or not difference <= self.worst[0]:
            self.worst = (difference, found, segment, position, call)


def comparable(call: Call) -> str | None:
    """None if a forward pass gives this call's logprobs; else why not."""
    semantics, temperature = call.logprob_semantics, call.sampling.get("temperature")
    if semantics == "raw":
        return None
    if semantics == "temperature":
        if "grammar_sha256" in call.sampling:
            return "were sampled under a grammar and are those of what it left"
        for name, neutral in _PENALTIES.items():
            if (value := call.sampling.get(name)) not in (None, neutral):
                return f"were sampled with a {name} of {value}, which is in them"
        if temperature in (None, 0, 1):  # engines answer greedy calls with raw logprobs
            return None
        return f"were sampled at temperature {temperature} and scaled by it"
    return f"have logprobs of {semantics} meaning"


def rescore(rollout: Rollout, found: Findings, score: Score, differences: Differences) -> None:
    """One forward pass a call that can be compared: an engine without prompt logprobs pays for each id it scores."""
    skipped: dict[str, int] = {}
    for call in rollout.calls:
        why = comparable(call)
        if why is not None:
            skipped[why] = skipped.get(why, 0) + call.length
            continue
        if not call.length:
            continue
        segment = rollout.segments[call.segment_index]
        model = segment.model or rollout.model
        end = call.start + call.length
        scored = score(model.handle, segment.token_ids[:end], call.start)
        if len(scored) != call.length:
            raise AgentError(f"The engine scored {len(scored)} ids where {call.length} were asked for.")
        found.looked("L5", call.length)
        for at, again in enumerate(scored, call.start):
            recorded = segment.logprobs[at]
            if recorded is not None:
                differences.add(abs(recorded - again), found, segment.index, at, call)
    for why, tokens in skipped.items():
        found.note(f"L5 is unchecked for {tokens} tokens: they {why}.")


def judge(differences: Differences, tolerance: float | None) -> LogprobStats | None:
    """Mean within the tolerance, p99 within ten times it; beyond that the worst token is named."""
    tolerance = differences.tolerance if tolerance is None else tolerance
    values = sorted(differences.values)
    if not values or differences.worst is None:
        return None
    # sorted() leaves NaN anywhere; a NaN anywhere makes the mean one
    mean = math.fsum(values) / len(values)
    stats = LogprobStats(
        tokens=len(values),
        mean=mean,
        p99=values[min(len(values) - 1, math.ceil(0.99 * len(values)) - 1)],
        max=values[-1],
        tolerance=tolerance,
    )
    if not (stats.mean <= tolerance and stats.p99 <= TAIL * tolerance):
        difference, found, segment, position, call = differences.worst
        message = (
            f"the engine gives another logprob, {difference:.4g} away; over all mean {stats.mean:.4g} (at most "
            f"{tolerance:g}), p99 {stats.p99:.4g} (at most {TAIL * tolerance:g})"
        )
        found.bad("L5", message, segment=segment, position=position, call_id=call.call_id)
    return stats
