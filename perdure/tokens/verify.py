"""Verifies a traj/1 export: every invariant a file can be held to, each counted, and the first bad token by name.

It trusts nothing in the record: what can be derived twice is compared, and what could not be checked is said.
"""

from collections.abc import Sequence
from typing import Any

from perdure.tokens.base import Tokenizer
from perdure.tokens.export import encode_line, first_difference, load_jsonl, locate
from perdure.tokens.record import Rollout
from perdure.tokens.verify_calls import check_calls
from perdure.tokens.verify_damage import check_digests, check_lengths, check_seal, check_values, place_of, shaped
from perdure.tokens.verify_experts import check_experts
from perdure.tokens.verify_groups import check_groups
from perdure.tokens.verify_logprobs import Differences, Score, judge, rescore
from perdure.tokens.verify_report import Findings, Report
from perdure.tokens.verify_structure import check_structure


def verify(
    rollouts: Sequence[dict[str, Any]],
    *,
    tokenizer: Tokenizer | None = None,
    score: Score | None = None,
    tolerance: float | None = None,
    source: bytes | None = None,
) -> Report:
    """`source`: the file the rollouts were read from, to be held to its own bytes. `score`: the engine's forward pass.
    `tolerance` None: what the engines that sampled are known to repeat within.
    """
    report = Report()
    differences = Differences()
    lines = source.split(b"\n") if source is not None else None
    readable: list[tuple[int, Rollout]] = []
    for number, record in enumerate(rollouts, 1):
        report.rollouts += 1
        found = Findings(report, number, str(record.get("rollout_id", "")))
        rollout = shaped(record, found)
        found.rollout = rollout
        if lines is not None:
            _check_bytes(lines[number - 1], record, found)
        if rollout is None:
            check_seal(record, found)
            continue
        readable.append((number, rollout))
        _count(rollout, report)
        _check_one(rollout, record, found, tokenizer)
        if score is not None and report.violation_count:
            # an engine is never sent ids that a damaged record made up
            found.note("L5 is unchecked from the first violation on: a damaged record is not sent to an engine.")
        elif score is not None:
            rescore(rollout, found, score, differences)
    if score is None:
        report.notes.append("L5 (logprobs recomputed) is unchecked: no engine was given.")
    report.logprobs = judge(differences, tolerance)
    if score is not None and report.logprobs is None and not report.violation_count:
        report.notes.append("L5: the engine was given, and no call's logprobs can be compared with it.")
    _check_ids(rollouts, report)
    check_groups(readable, report)
    return report


def verify_bytes(
    data: bytes, *, tokenizer: Tokenizer | None = None, score: Score | None = None, tolerance: float | None = None
) -> Report:
    """An export as it lies on disk. Unreadable if it is none."""
    return verify(load_jsonl(data), tokenizer=tokenizer, score=score, tolerance=tolerance, source=data)


def _check_one(rollout: Rollout, record: dict[str, Any], found: Findings, tokenizer: Tokenizer | None) -> None:
    check_values(rollout, found)
    if not check_lengths(rollout, found):
        check_seal(record, found)
        return
    check_digests(rollout, record, found)
    check_structure(rollout, found)
    check_calls(rollout, found, tokenizer)
    check_experts(rollout, found)


def _check_bytes(line: bytes, record: dict[str, Any], found: Findings) -> None:
    """D3: the line is exactly what writing the record gives."""
    again = encode_line(record)
    if line == again:
        found.looked("D3")
        return
    path = locate(line, first_difference(line, again))
    segment, position = place_of(record, path)
    if found.rollout is None or segment is None or segment >= len(found.rollout.segments):
        segment = position = None
    found.expect(
        "D3", False, f"written otherwise than an export writes it, at {path}", segment=segment, position=position
    )


def _count(rollout: Rollout, report: Report) -> None:
    report.segments += len(rollout.segments)
    report.calls += len(rollout.calls)
    report.tokens += sum(len(segment.token_ids) for segment in rollout.segments)
    report.sampled_tokens += sum(call.length for call in rollout.calls)
    report.trainable_tokens += sum(sum(segment.loss_mask) for segment in rollout.segments)
    report.fallbacks += sum(segment.cause == "renderer_fallback" for segment in rollout.segments)


def _check_ids(rollouts: Sequence[dict[str, Any]], report: Report) -> None:
    """A rollout is in a file once: twice, its tokens would train twice."""
    seen: set[str] = set()
    for number, record in enumerate(rollouts, 1):
        name = str(record.get("rollout_id", ""))
        Findings(report, number, name).expect("T6", name not in seen, "the same rollout is in the file twice")
        seen.add(name)
