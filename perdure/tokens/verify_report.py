"""What a verification found: how often each invariant was looked at, and every place where one does not hold.

A violation names the token wherever one can be named: segment, position, id and the call it belongs to.
"""

from collections import Counter
from typing import Any

from msgspec import Struct, field

from perdure.tokens.record import Rollout

MOST_A_KIND = 5

MEANING = {
    "D1": "the digest of every call links to the one before",
    "D2": "an incomplete rollout trains nothing",
    "D3": "reading and writing the file again gives the same bytes",
    "C1": "no call is trained in two rollouts, no engine request made twice",
    "D4": "the file trains what the record it is held against trains",
    "D6": "the seal of the whole record",
    "D7": "every token's check value",
    "T0": "the record has the schema's fields and types",
    "T1": "all arrays of a segment have one length",
    "T2": "calls are disjoint, in order and inside their segment",
    "T3": "each call starts where its prompt ends",
    "T4": "the loss mask is 1 exactly on the ids of trainable calls",
    "T5": "call_index names the call that sampled the id",
    "T6": "no sampled token trains twice",
    "T7": "every call is owned once, and all trainable ids are in the masks",
    "T8": "message, role and content flags are the spans of the calls",
    "P1": "what a call's prompt added begins where the segment ended",
    "P2": "a segment ends with its last call: nothing was appended unseen",
    "P3": "a new segment has a recorded cause, in time, and the true shared prefix",
    "P4": "a segment begins with the ids it shares with its parent",
    "P5": "no prompt was rebuilt without a declared cause (drift)",
    "X1": "the completion's ids decode to the text the client was shown",
    "X3": "tool-call spans decode to the calls that were executed",
    "X4": "message ids decode to the stored messages",
    "L1": "one logprob a sampled id",
    "L2": "logprobs are finite, not above 0 and not the engine's filler",
    "L3": "the call's own ids and logprobs equal the segment's",
    "L4": "0.0 wherever nothing was sampled",
    "L5": "the engine's forward pass gives the same logprobs",
    "L6": "a greedy call took the likeliest id",
    "L8": "logprobs are float32 values",
    "F1": "a stop ends with the id it matched",
    "F2": "a length stop has the length asked for",
    "F3": "an aborted call is not trained",
    "F5": "a generation that went on after an abort is its attempts, one after the other",
    "F4": "nothing follows a stop id",
    "V1": "weight versions cover each completion without gaps",
    "V2": "each id's version is its span's",
    "G1": "a group has its attempts, each once",
    "G2": "the attempts of a group are at one task, by one agent, sampled alike",
    "G3": "rewards have targets and add up",
    "G4": "no rollout is scored by its own trained tokens",
    "S1": "no control token inside what users, tools or system wrote",
    "S2": "ids are in the vocabulary, and the tokenizer is the recorded one",
    "S4": "nothing synthesized or unsampled is trained",
    "R1": "routed experts have one shape, and no more rows than there are ids",
    "R2": "the numbers of experts are those a layer has",
    "R3": "the rows of routed experts are those the calls brought, one after the other",
    "R4": "every row of routed experts has its check value",
}


class Violation(Struct, frozen=True, kw_only=True):
    """`rollout` counts the file's lines from 1. `position` counts the segment's tokens from 0."""

    invariant: str
    message: str
    rollout: int
    rollout_id: str = ""
    segment: int | None = None
    position: int | None = None
    token_id: int | None = None
    call_id: str | None = None

    @property
    def place(self) -> str:
        parts = [f"rollout {self.rollout}"]
        if self.segment is not None:
            parts.append(f"segment {self.segment}")
        if self.position is not None:
            parts.append(f"token {self.position}" + (f" (id {self.token_id})" if self.token_id is not None else ""))
        if self.call_id is not None:
            parts.append(f"call {self.call_id}")
        return ", ".join(parts)


class LogprobStats(Struct, frozen=True, kw_only=True):
    """Absolute differences between recorded and recomputed logprobs, over `tokens` sampled ids."""

    tokens: int
    mean: float
    p99: float
    max: float
    tolerance: float


class Report(Struct, kw_only=True):
    """`drift`: prompts rebuilt without a declared cause. `fallbacks`: segments begun because the renderer could not go on,
    on record as such. `notes`: what could not be checked, and why."""

    rollouts: int = 0
    segments: int = 0
    calls: int = 0
    tokens: int = 0
    sampled_tokens: int = 0
    trainable_tokens: int = 0
    drift: int = 0
    fallbacks: int = 0
    checked: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    violation_count: int = 0
    logprobs: LogprobStats | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violation_count

    @property
    def first_bad_token(self) -> Violation | None:
        """The earliest violation that names a token; at one token, the one closest to the cause."""
        named = [violation for violation in self.violations if violation.position is not None]
        return min(named, key=lambda v: (v.rollout, v.segment or 0, v.position or 0, v.invariant != "D7"), default=None)

    def to_dict(self) -> dict[str, Any]:
        from msgspec import to_builtins

        first = self.first_bad_token
        return {"ok": self.ok, **to_builtins(self), "first_bad_token": to_builtins(first) if first else None}


class Findings:
    """Collects what is found in one rollout, the line `number` of the file."""

    def __init__(self, report: Report, number: int, rollout_id: str, rollout: Rollout | None = None) -> None:
        self.report = report
        self.rollout = rollout
        self._number = number
        self._id = rollout_id
        self._kinds: Counter[str] = Counter()

    def looked(self, invariant: str, times: int = 1) -> None:
        self.report.checked[invariant] = self.report.checked.get(invariant, 0) + times

    def note(self, text: str) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)

    def bad(
        self,
        invariant: str,
        message: str,
        *,
        segment: int | None = None,
        position: int | None = None,
        call_id: str | None = None,
    ) -> None:
        """Only the first few of a kind are kept word for word; all are counted."""
        self.report.violation_count += 1
        self._kinds[invariant] += 1
        if self._kinds[invariant] > MOST_A_KIND:
            return
        token_id = None
        if self.rollout is not None and segment is not None and position is not None:
            ids = self.rollout.segments[segment].token_ids
            token_id = ids[position] if position < len(ids) else None
            call_id = call_id or self.call_at(segment, position)
        self.report.violations.append(
            Violation(
                invariant=invariant,
                message=message,
                rollout=self._number,
                rollout_id=self._id,
                segment=segment,
                position=position,
                token_id=token_id,
                call_id=call_id,
            )
        )

    def expect(
        self,
        invariant: str,
        holds: bool,
        message: str,
        *,
        segment: int | None = None,
        position: int | None = None,
        call_id: str | None = None,
    ) -> bool:
        self.looked(invariant)
        if not holds:
            self.bad(invariant, message, segment=segment, position=position, call_id=call_id)
        return holds

    def call_at(self, segment: int, position: int) -> str | None:
        """The call that brought a token in: it sampled it or its prompt added it."""
        assert self.rollout is not None
        for call in self.rollout.calls:
            if call.segment_index == segment and call.delta_start <= position < call.start + call.length:
                return call.call_id
        return None
