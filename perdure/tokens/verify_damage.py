"""Damage: does the record still say what was written? Shape, lengths, check values, digests, seal.

What comes out of here safely has the schema's types and arrays of equal length; the other checks rely on it.
"""

import hmac
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from perdure.tokens.record import ARRAYS, Rollout, SegmentRecord
from perdure.tokens.seal import call_digest, chain_start, first_check, is_float32, record_seal, rows_of, token_check
from perdure.tokens.verify_report import Findings

NAMES = ("token_ids", "logprobs", "loss_mask", "call_index", "message_index", "role", "is_content", "version")
UNFIT = "the token's entries do not have its check value"
_INDEX = re.compile(r"^(segments|calls)\[(\d+)\](?:\.(\w+))?(?:\[(\d+)\])?")


def shaped(record: dict[str, Any], found: Findings) -> Rollout | None:
    """The record as values; None, with the violation noted, if it has not the schema's fields and types."""
    found.looked("T0")
    try:
        return msgspec.convert(record, Rollout)
    except msgspec.ValidationError as error:
        path, segment, position = _wrong_entry(record)
        call_id = _call_of(record, segment, position) if segment is not None and position is not None else None
        where = f" (at {path})" if path else ""
        found.bad("T0", f"{error}{where}", segment=segment, position=position, call_id=call_id)
        return None


def _wrong_entry(record: dict[str, Any]) -> tuple[str | None, int | None, int | None]:
    """(path, segment, position) of the first array entry whose type is wrong."""
    for owner in ("segments", "calls"):
        parts = record.get(owner)
        for at, part in enumerate(parts if isinstance(parts, list) else []):
            for name in ARRAYS if isinstance(part, dict) else ():
                values = part.get(name)
                for index, value in enumerate(values if isinstance(values, list) else []):
                    fits = (
                        value is None or isinstance(value, float | int)
                        if name == "logprobs"
                        else isinstance(value, int)
                    )
                    if not fits or isinstance(value, bool):
                        path = f"{owner}[{at}].{name}[{index}]"
                        return path, *place_of(record, path)
    return None, None, None


def place_of(record: dict[str, Any], path: str | None) -> tuple[int | None, int | None]:
    """The (segment, position) of the token that a path like `segments[0].token_ids[41]` is about, as far as it says."""
    matched = _INDEX.match(path or "")
    if matched is None:
        return None, None
    owner, at, name, index = matched[1], int(matched[2]), matched[3], matched[4]
    if owner == "segments":
        return at, int(index) if index is not None and name in ARRAYS else None
    try:
        call = record["calls"][at]
        start = int(index) + call["start"] if index is not None and name in ("token_ids", "logprobs") else None
        return call["segment_index"], start
    except (KeyError, IndexError, TypeError):
        return None, None


def _call_of(record: dict[str, Any], segment: int, position: int) -> str | None:
    for call in record.get("calls", ()):
        try:
            if call["segment_index"] == segment and call["delta_start"] <= position < call["start"] + call["length"]:
                return call["call_id"]
        except (KeyError, TypeError):
            continue
    return None


def check_lengths(rollout: Rollout, found: Findings) -> bool:
    """T1; names the first token from which the arrays no longer fit each other."""
    fits = True
    for segment in rollout.segments:
        lengths = {name: len(getattr(segment, name)) for name in ARRAYS}
        size = max(set(lengths.values()), key=list(lengths.values()).count)
        odd = [f"{name} has {length}" for name, length in lengths.items() if length != size]
        position = _first_break(segment) if odd else None
        message = f"arrays differ in length: {', '.join(odd)}, the others {size}"
        fits &= found.expect("T1", not odd, message, segment=segment.index if odd else None, position=position)
        fits &= _in_range(rollout, segment, found)
    for at, segment in enumerate(rollout.segments):
        fits &= found.expect("T1", segment.index == at, f"segment {at} says it is number {segment.index}", segment=at)
    for at, call in enumerate(rollout.calls):
        inside = call.index == at and 0 <= call.segment_index < len(rollout.segments)
        inside = inside and rollout.segments[call.segment_index].segment_id == call.segment_id
        message = f"call {at} says it is number {call.index} of segment {call.segment_index} ({call.segment_id})"
        fits &= found.expect("T1", inside, message, call_id=call.call_id)
    return fits


def _in_range(rollout: Rollout, segment: SegmentRecord, found: Findings) -> bool:
    """Indices point into the record and flags are 0 or 1; else nothing below can follow them."""
    limits = {
        "token_ids": (0, 2**31),
        "loss_mask": (0, 2),
        "call_index": (-1, len(rollout.calls)),
        "message_index": (-1, len(rollout.messages)),
        "role": (0, 6),
        "is_content": (0, 2),
        "version": (-1, len(rollout.versions)),
    }
    fits = True
    for name, (low, high) in limits.items():
        values: list[int] = getattr(segment, name)
        found.looked("T1")
        if values and not (low <= min(values) and max(values) < high):
            at = next(at for at, value in enumerate(values) if not low <= value < high)
            message = f"{name} is {values[at]}, which is not in [{low}, {high})"
            found.bad("T1", message, segment=segment.index, position=at)
            fits = False
    return fits


def check_values(rollout: Rollout, found: Findings) -> None:
    """D7: one check value a token. A segment's first mismatch is told in detail: which entry changed, and from what."""
    for at, segment in enumerate(rollout.segments):
        _check_float32(segment, found)
        found.looked("D7", len(segment.check))
        bad = [position for position, said in enumerate(_mismatches(segment)) if said is not None]
        for position in bad:
            told = _diagnosis(rollout, segment, position) if position == bad[0] else UNFIT
            found.bad("D7", told, segment=at, position=position)


def _check_float32(segment: SegmentRecord, found: Findings) -> None:
    """L8: what lies between two float32 values rounds to one of them, so no check value sees it."""
    found.looked("L8", len(segment.logprobs))
    for at, logprob in enumerate(segment.logprobs):
        if logprob is not None and not is_float32(logprob):
            found.bad("L8", f"its logprob {logprob!r} is no float32 value", segment=segment.index, position=at)


def _first_break(segment: SegmentRecord) -> int:
    """The first token whose check value does not fit its entries; the shortest array's end if all do."""
    for position, said in enumerate(_mismatches(segment)):
        if said is not None:
            return position
    return min(len(getattr(segment, name)) for name in ARRAYS)


def _mismatches(segment: SegmentRecord) -> Iterator[int | None]:
    """For each token None, or the check value its entries have instead of the recorded one.

    Each is computed from the recorded value before it, so one damaged entry shows once. A damaged check value shows at its
    own token only: the next one also fits the value computed in its place.
    """
    before = first_check(segment.segment_id)
    instead: int | None = None
    for row, recorded in zip(rows_of(segment), segment.check, strict=False):
        computed = token_check(before, *row)
        fits = computed == recorded or (instead is not None and token_check(instead, *row) == recorded)
        yield None if fits else (-1 if computed is None else computed)
        instead = None if computed == recorded else computed
        before = recorded & 0xFFFFFFFF


def _diagnosis(rollout: Rollout, segment: SegmentRecord, at: int) -> str:
    """Which single entry would have to be another for the check value to hold."""
    row: tuple[Any, ...] = next(islice(rows_of(segment), at, None))
    before = segment.check[at - 1] & 0xFFFFFFFF if at else first_check(segment.segment_id)
    recorded = segment.check[at]
    for index, values in _candidates(rollout, segment, at):
        for value in values:
            if value != row[index] and token_check(before, *(*row[:index], value, *row[index + 1 :])) == recorded:
                return f"{NAMES[index]} is {row[index]} and was {value} when the record was written"
    if at + 1 < len(segment.check):
        computed = token_check(before, *row)
        following = next(islice(rows_of(segment), at + 1, None))
        if computed is not None and token_check(computed, *following) == segment.check[at + 1]:
            return f"the check value itself is damaged: it is {recorded}, the token's entries give {computed}"
    return UNFIT


def _candidates(rollout: Rollout, segment: SegmentRecord, at: int) -> Iterator[tuple[int, Any]]:
    """Per column, the values it may have had; a call's own copies first, then everything small enough to try."""
    for call in rollout.calls:
        if call.segment_index == segment.index and call.start <= at < call.start + call.length:
            offset = at - call.start
            yield 0, call.token_ids[offset : offset + 1]
            yield 1, call.logprobs[offset : offset + 1]
    yield 1, (0.0,)
    yield 2, (0, 1)
    yield 3, range(-1, len(rollout.calls))
    yield 4, range(-1, len(rollout.messages))
    yield 5, range(6)
    yield 6, (0, 1)
    yield 7, range(-1, len(rollout.versions))
    tokenizer = segment.tokenizer or rollout.tokenizer
    yield 0, range(tokenizer.vocab_size if tokenizer else 0)


def check_digests(rollout: Rollout, record: dict[str, Any], found: Findings) -> None:
    """D1, the chain over the calls; D6, the seal over the line."""
    link = chain_start(rollout.rollout_id)
    for call in rollout.calls:
        try:
            computed = call_digest(link, call, rollout.segments[call.segment_index])
        except OverflowError:
            computed = ""
        message = f"the digest of call {call.index} does not fit its ids, logprobs, mask and versions"
        found.expect("D1", hmac.compare_digest(computed, call.digest), message, call_id=call.call_id)
        link = call.digest
    found.expect("D1", rollout.digest == link, "the rollout's digest is not its last call's")
    check_seal(record, found)


def check_seal(record: dict[str, Any], found: Findings) -> None:
    sealed = str(record.get("record_sha256"))
    message = "something in the record is not as it was written (its seal does not fit)"
    found.expect("D6", record_seal(record) == sealed, message)
