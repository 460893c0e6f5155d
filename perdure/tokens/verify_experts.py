"""Routed experts: is there a row for each id that can have one, of the ids it stands at, as the engine told it?

R1 shape and size, R2 expert numbers, R3 which rows each call brought, R4 the check value of each row.
"""

from collections.abc import Sequence

from msgspec import UNSET

from perdure.core.experts import ExpertRows
from perdure.tokens.experts import decoded, part_sha256, row_checks
from perdure.tokens.record import Call, CallExperts, Rollout, RoutedExperts, SegmentRecord
from perdure.tokens.verify_report import Findings


def check_experts(rollout: Rollout, found: Findings) -> None:
    """Needs arrays of one length and indices that point into the record (`verify_damage.check_lengths`)."""
    shapes: dict[str, tuple[int, int]] = {}
    for segment in rollout.segments:
        calls = [call for call in rollout.calls if call.segment_index == segment.index]
        record = segment.routed_experts
        if record is None:
            for call in calls:
                message = "says it brought routed experts, its segment has none"
                found.expect("R3", call.routed_experts is UNSET, message, segment=segment.index, call_id=call.call_id)
            continue
        rows = _check_shape(segment, record, found)
        if rows is None:
            continue
        model, own = (segment.model or rollout.model).path, (rows.layers, rows.top_k)
        message = f"has {own[0]} layers and {own[1]} experts an id, another segment of {model} {shapes.get(model)}"
        found.expect("R1", shapes.setdefault(model, own) == own, message, segment=segment.index, position=0)
        damaged = _check_rows(segment, record, rows, found)
        _check_numbers(segment, rows, found)
        _check_parts(segment, rows, calls, damaged, found)


def _check_shape(segment: SegmentRecord, record: RoutedExperts, found: Findings) -> ExpertRows | None:
    """R1. None if the rows cannot be told apart."""
    size = len(segment.token_ids)
    try:
        rows = decoded(record)
    except ValueError as cause:
        found.expect("R1", False, f"routed experts: {cause}", segment=segment.index)
        return None
    message = f"{rows.count} rows of routed experts for {size} ids"
    if not found.expect("R1", rows.count <= size, message, segment=segment.index, position=size - 1):
        return None
    message = f"{len(record.check)} check values for {rows.count} rows of routed experts"
    position = min(len(record.check), rows.count, size - 1)
    if not found.expect("R1", len(record.check) == rows.count, message, segment=segment.index, position=position):
        return None
    return rows


def _check_rows(segment: SegmentRecord, record: RoutedExperts, rows: ExpertRows, found: Findings) -> set[int]:
    """R4. The ids whose rows are not as they were written."""
    found.looked("R4", rows.count)
    computed = row_checks(rows, segment.check)
    bad = [at for at, (is_now, was) in enumerate(zip(computed, record.check, strict=True)) if is_now != was]
    for at in bad:
        message = "its routed experts do not have their check value"
        found.bad("R4", message, segment=segment.index, position=at)
    return set(bad)


def _check_numbers(segment: SegmentRecord, rows: ExpertRows, found: Findings) -> None:
    """R2, where it is known how many experts a layer has."""
    if rows.num_experts is None:
        found.note("R2 (expert numbers) is unchecked: the record does not say how many experts a layer has.")
        return
    found.looked("R2", rows.count)
    numbers = memoryview(rows.data).cast("B" if rows.dtype == "uint8" else "H")
    if not len(numbers) or max(numbers) < rows.num_experts:
        return
    width = rows.layers * rows.top_k
    for at in range(rows.count):
        worst = max(numbers[at * width : (at + 1) * width])
        if worst >= rows.num_experts:
            message = f"went to expert {worst}; a layer has {rows.num_experts}"
            found.bad("R2", message, segment=segment.index, position=at)


def _check_parts(
    segment: SegmentRecord, rows: ExpertRows, calls: Sequence[Call], damaged: set[int], found: Findings
) -> None:
    """R3: the calls' parts are the rows, one after the other, and none reaches beyond what its call can have told."""
    end = 0
    for call in calls:
        part = call.routed_experts
        if not isinstance(part, CallExperts):
            continue
        most = call.start + call.length - 1
        whole = call.finish.type != "abort" and not call.attempts
        here = min(end, rows.count - 1)
        message = f"its rows of routed experts begin at id {part.start}, those before end at {end}"
        found.expect("R3", part.start == end, message, segment=segment.index, position=here, call_id=call.call_id)
        end = part.start + part.count
        message = f"its rows of routed experts end at id {end}, its ids at {most + 1}: the last has none"
        fits = end == most if whole else end <= most
        found.expect("R3", fits, message, segment=segment.index, call_id=call.call_id)
        if not damaged & set(range(part.start, end)):
            same = part.count > 0 and part_sha256(rows, part) == part.sha256
            message = "its routed experts are not those its engine told"
            found.expect("R3", same, message, segment=segment.index, call_id=call.call_id)
    message = f"{rows.count} rows of routed experts, the calls brought {end}"
    position = None if end == rows.count else min(end, rows.count, len(segment.token_ids) - 1)
    found.expect("R3", end == rows.count, message, segment=segment.index, position=position)
