"""Structure: do segments, calls and masks tell one story? Everything the calls imply about the arrays is derived again from
the calls alone and compared, token by token, so that a wrong entry is named even in a record that was sealed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perdure.tokens.record import ASSISTANT, Call, Rollout, SegmentRecord
from perdure.tokens.verify_report import Findings


def check_structure(rollout: Rollout, found: Findings) -> None:
    """Needs arrays of one length and indices that point into the record (`verify_damage.check_lengths`)."""
    by_id = {segment.segment_id: segment for segment in rollout.segments}
    for segment in rollout.segments:
        calls = [call for call in rollout.calls if call.segment_index == segment.index]
        sound = _check_intervals(segment, calls, found)
        parent = by_id.get(segment.parent_segment_id or "")
        shared = _check_parent(rollout, segment, parent, calls, found)
        if sound:
            _compare(rollout, segment, _expected(rollout, segment, calls, parent if shared else None), found)
        _check_unsampled(segment, found)
    _check_totals(rollout, found)


def _check_intervals(segment: SegmentRecord, calls: Sequence[Call], found: Findings) -> bool:
    """T2, T3, P1, P2: the calls tile the segment. False if they do not: nothing can be derived from them then."""
    size, end, sound = len(segment.token_ids), 0, True
    for call in calls:
        at: dict[str, Any] = {"segment": segment.index, "call_id": call.call_id}
        stop = call.start + call.length
        inside = end <= call.delta_start <= call.start <= stop <= size
        sound &= found.expect("T2", inside, f"ids [{call.start}, {stop}) are not after {end} and within {size}", **at)
        starts = call.prompt_len == call.start
        sound &= found.expect("T3", starts, f"starts at {call.start}, its prompt has {call.prompt_len} ids", **at)
        follows = call.delta_start == end
        message = f"its prompt's own ids begin at {call.delta_start}, the call before ended at {end}"
        sound &= found.expect("P1", follows, message, **at)
        covered = sum(span[0] for span in call.spans)
        added = call.start - call.delta_start
        message = f"its spans cover {covered} ids of the {added} its prompt added"
        sound &= found.expect("T8", covered == added, message, **at)
        copies = len(call.token_ids) == len(call.logprobs) == call.length
        message = f"{len(call.token_ids)} ids and {len(call.logprobs)} logprobs for {call.length} sampled tokens"
        sound &= found.expect("L1", copies, message, **at)
        sound &= _check_versions(call, found, segment.index)
        end = stop
    closed = end == size
    message = f"the last call ends at {end}, the segment at {size}"
    return sound & found.expect(
        "P2", closed, message, segment=segment.index, position=None if closed else min(end, size - 1)
    )


def _check_versions(call: Call, found: Findings, segment: int) -> bool:
    """V1: the spans partition the completion, and no version comes back within one call."""
    at, seen = 0, list[str]()
    for span in call.weight_versions:
        if span.start != at or span.end < span.start or span.version in seen:
            break
        at = span.end
        seen.append(span.version)
    else:
        if at == call.length:
            found.looked("V1")
            return True
    message = (
        f"weight versions {[(s.version, s.start, s.end) for s in call.weight_versions]} do not cover {call.length} ids"
    )
    return found.expect("V1", False, message, segment=segment, call_id=call.call_id)


def _check_parent(
    rollout: Rollout, segment: SegmentRecord, parent: SegmentRecord | None, calls: Sequence[Call], found: Findings
) -> bool:
    """P3, P4. True if the segment has its parent's entries for the ids they share."""
    at = segment.index
    if segment.cause == "root":
        message = "a root segment has no parent"
        found.expect("P3", segment.parent_segment_id is None and segment.parent_offset == 0, message, segment=at)
        return False
    if parent is None:
        found.expect("P3", at == 0 or segment.parent_segment_id is None, "its parent is not in the record", segment=at)
        if segment.parent_segment_id is not None:
            found.note("A segment's parent is outside this record (one run's export): its shared prefix is unchecked.")
        return False
    offset = segment.parent_offset
    fits = 0 <= offset <= min(len(segment.token_ids), len(parent.token_ids), calls[0].prompt_len)
    message = f"says it shares {offset} ids with its parent, more than either has before its first call"
    if not found.expect("P4", fits, message, segment=at):
        return False
    common = _common(segment.token_ids, parent.token_ids, offset)
    message = f"differs from its parent before id {offset}"
    same = found.expect("P4", common == offset, message, segment=at, position=_at(segment, common))
    before = [call for call in rollout.calls if call.segment_index == parent.index and call.index < calls[0].index]
    held = before[-1].start + before[-1].length if before else 0
    limit = min(held, calls[0].prompt_len)
    true = _common(segment.token_ids[:limit], parent.token_ids[:held], limit)
    message = f"says it shares {offset} ids with its parent; it shares {true}"
    found.expect("P3", offset == true or not same, message, segment=at)
    began, first = segment.created_at, calls[0]
    asked = max((call.t_queue or 0 for call in rollout.calls if call.index < first.index), default=0)
    timely = asked <= began and (first.t_last is None or began <= first.t_last)
    found.expect("P3", timely, "began before the call before it, or after its own first call", segment=at)
    return True


def _at(segment: SegmentRecord, position: int) -> int:
    return min(position, max(len(segment.token_ids) - 1, 0))


def _common(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    limit = min(limit, len(one), len(other))
    return next((at for at in range(limit) if one[at] != other[at]), limit)


@dataclass(slots=True)
class _Expected:
    mask: list[int]
    call: list[int]
    version: list[int]
    message: list[int]
    role: list[int]
    content: list[int]


def _expected(
    rollout: Rollout, segment: SegmentRecord, calls: Sequence[Call], parent: SegmentRecord | None
) -> _Expected:
    """The arrays as the calls imply them; `parent` lends its first `parent_offset` entries."""
    offset = segment.parent_offset if parent is not None else 0
    messages = {message.id: at for at, message in enumerate(rollout.messages)}
    versions = {version: at for at, version in enumerate(rollout.versions)}
    out = _Expected([], [], [], [], [], [])
    for call in calls:
        for length, message, role, content in call.spans:
            out.message += [message] * length
            out.role += [role] * length
            out.content += [content] * length
        added = call.start - call.delta_start
        out.mask += [0] * added + [int(call.trainable)] * call.length
        out.call += [-1] * added + [call.index] * call.length
        out.version += [-1] * added
        for span in call.weight_versions:
            out.version += [versions.get(span.version, -2)] * (span.end - span.start)
        stopped = call.finish.type == "stop" and call.token_ids[-1:] == [call.finish.matched]
        out.message += [messages.get(call.assistant_message_id, -1)] * call.length
        out.role += [ASSISTANT] * call.length
        out.content += [1] * (call.length - stopped) + [0] * stopped
    if parent is not None:
        out.call[:offset] = parent.call_index[:offset]
        out.version[:offset] = parent.version[:offset]
    return out


def _compare(rollout: Rollout, segment: SegmentRecord, expected: _Expected, found: Findings) -> None:
    for invariant, name, wanted, actual in (
        ("T4", "loss_mask", expected.mask, segment.loss_mask),
        ("T5", "call_index", expected.call, segment.call_index),
        ("V2", "version", expected.version, segment.version),
        ("T8", "message_index", expected.message, segment.message_index),
        ("T8", "role", expected.role, segment.role),
        ("T8", "is_content", expected.content, segment.is_content),
    ):
        found.looked(invariant, len(actual))
        if wanted != actual:
            for at, (want, have) in enumerate(zip(wanted, actual, strict=True)):
                if want != have:
                    message = f"{name} is {have}; the calls say {want}"
                    found.bad(invariant, message, segment=segment.index, position=at)
    _check_inherited(rollout, segment, found)


def _check_inherited(rollout: Rollout, segment: SegmentRecord, found: Findings) -> None:
    """L3 beyond the owning segment: a shared token carries its call's id and logprob wherever it stands."""
    for at, index in enumerate(segment.call_index):
        if index < 0 or index >= len(rollout.calls) or rollout.calls[index].segment_index == segment.index:
            continue
        call = rollout.calls[index]
        offset = at - call.start
        if not 0 <= offset < min(len(call.token_ids), len(call.logprobs)):
            continue
        same = call.token_ids[offset] == segment.token_ids[at] and call.logprobs[offset] == segment.logprobs[at]
        message = "differs from the id or logprob its call sampled in the parent segment"
        found.expect("L3", same, message, segment=segment.index, position=at)


def _check_unsampled(segment: SegmentRecord, found: Findings) -> None:
    """L4, S4: what nobody sampled has logprob 0.0 and is not trained."""
    found.looked("L4", len(segment.token_ids))
    found.looked("S4", len(segment.token_ids))
    for at, (call, logprob, mask) in enumerate(
        zip(segment.call_index, segment.logprobs, segment.loss_mask, strict=True)
    ):
        if call < 0 and (logprob != 0.0 or str(logprob) == "-0.0"):
            found.bad("L4", f"nobody sampled it, its logprob is {logprob}", segment=segment.index, position=at)
        if call < 0 and mask:
            found.bad("S4", "nobody sampled it and it is to be trained", segment=segment.index, position=at)


def _check_totals(rollout: Rollout, found: Findings) -> None:
    """T6, T7, D2 over the whole rollout."""
    trained: set[tuple[int, int]] = set()
    for segment in rollout.segments:
        for at, (mask, index) in enumerate(zip(segment.loss_mask, segment.call_index, strict=True)):
            if not mask or not 0 <= index < len(rollout.calls):
                continue
            key = (index, at - rollout.calls[index].start)
            if key in trained:
                found.bad("T6", "is trained in an earlier segment too", segment=segment.index, position=at)
            trained.add(key)
    found.looked("T6", len(trained))
    masked = sum(sum(segment.loss_mask) for segment in rollout.segments)
    trainable = sum(call.length for call in rollout.calls if call.trainable)
    found.expect("T7", masked == trainable, f"{masked} ids are to be trained, the trainable calls have {trainable}")
    names = [call.call_id for call in rollout.calls]
    found.expect("T7", len(set(names)) == len(names), "a call is in the record twice")
    incomplete = rollout.status == "incomplete" and masked > 0
    found.expect("D2", not incomplete, "the rollout is incomplete and has ids to train")
