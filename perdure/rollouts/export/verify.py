"""Verifies a file of any format: `traj/1` by all its invariants, a trainer's shape by what its rows must hold among themselves.

A shape drops what the record proves itself with; held against the record it came from (`against`), it must train the same.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from perdure.rollouts.export.formats import shape_of
from perdure.rollouts.export.parquet import MAGIC, load_parquet
from perdure.rollouts.export.samples import NotThisShape, Row, Sample, Shape
from perdure.tokens.base import Tokenizer
from perdure.tokens.export import Unreadable, load_jsonl
from perdure.tokens.verify import verify
from perdure.tokens.verify_calls import FILLER, SLACK
from perdure.tokens.verify_logprobs import Score
from perdure.tokens.verify_report import Findings, Report

LARGEST = 2**31
Trained = tuple[bytes, int, float | None]
"""What one id trains: the digest of all ids before it, itself, its logprob."""


def read_records(data: bytes) -> list[dict[str, Any]] | None:
    """The records of a `traj/1` file, JSONL or Parquet; None if its lines are a trainer's. Unreadable."""
    if data.startswith(MAGIC):
        return load_parquet(data)
    return load_jsonl(data) if _shape(data) is None else None


def verify_any(
    data: bytes,
    *,
    tokenizer: Tokenizer | None = None,
    scorer: Callable[[list[dict[str, Any]]], Score] | None = None,
    tolerance: float | None = None,
    against: bytes | None = None,
) -> Report:
    """Unreadable: neither an export nor rows of a known shape. `scorer`: gives the engine's forward pass for these records."""
    records = read_records(data)
    if records is not None:
        source = None if data.startswith(MAGIC) else data
        score = scorer(records) if scorer is not None else None
        report = verify(records, tokenizer=tokenizer, score=score, tolerance=tolerance, source=source)
        if source is None:
            report.notes.append("D3 is unchecked: the file is Parquet; the seal of each record is checked.")
        samples = list(_of_records(records)) if against is not None and report.ok else []
    else:
        shape = _shape(data)
        assert shape is not None
        report, samples = _verify_rows(shape, data, tokenizer)
        if scorer is not None:
            report.notes.append(f"L5 is unchecked: {shape.name} names no model to ask. Verify the traj/1 file.")
    if against is not None and report.ok:
        _compare(samples, against, report)
    return report


def _shape(data: bytes) -> Shape | None:
    first, _, _ = data.partition(b"\n")
    try:
        row = msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return shape_of(row) if isinstance(row, dict) and "schema" not in row else None


def _verify_rows(shape: Shape, data: bytes, tokenizer: Tokenizer | None) -> tuple[Report, list[Sample]]:
    report = Report(notes=[f"The file has the shape of {shape.name}: it is held to what its rows say alone."])
    if not data.endswith(b"\n"):
        raise Unreadable("The file does not end with a line break: it was cut off. Export again.")
    rows: list[Row] = []
    samples: list[Sample] = []
    trained: set[tuple[str, bytes, int]] = set()
    for number, line in enumerate(data[:-1].split(b"\n"), 1):
        row = _row(line, number)
        rows.append(row)
        report.rollouts += 1
        try:
            if not shape.keys <= row.keys():
                raise NotThisShape(f"has no {', '.join(sorted(shape.keys - row.keys()))}")
            read = shape.read(row)
        except NotThisShape as error:
            Findings(report, number, "").bad("T0", error.message)
            continue
        for sample in read:
            _check_sample(sample, Findings(report, number, sample.name), trained, tokenizer)
        samples += read
    if shape.whole is not None:
        for number, invariant, message in shape.whole(rows) if report.ok else ():
            Findings(report, number, "").bad(invariant, message)
    if any(not sample.name for sample in samples):
        report.notes.append("T6 is unchecked where rows do not say which rollout they are of.")
    return report, samples


def _row(line: bytes, number: int) -> Row:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"Line {number} is not JSON: {error}.", line=number) from error
    if not isinstance(row, dict):
        raise Unreadable(f"Line {number} is not a JSON object.", line=number)
    return row


def _check_sample(
    sample: Sample, found: Findings, trained: set[tuple[str, bytes, int]], tokenizer: Tokenizer | None
) -> None:
    report = found.report
    report.tokens += len(sample.ids)
    report.trainable_tokens += sum(sample.mask)
    for invariant, message in sample.notes:
        found.bad(invariant, message)
    sizes = {"ids": len(sample.ids), "mask": len(sample.mask), "logprobs": len(sample.logprobs)}
    if sample.versions is not None:
        sizes["versions"] = len(sample.versions)
    message = f"arrays of different lengths: {', '.join(f'{name} {size}' for name, size in sizes.items())}"
    if not found.expect("T1", len(set(sizes.values())) == 1, message):
        return
    _check_values(sample, found, tokenizer)
    if not sample.name:
        return
    found.looked("T6", sum(sample.mask))
    for at, (before, token_id, _) in zip(_places(sample), trains(sample), strict=True):
        key = (sample.name, before, token_id)
        if key in trained:
            found.bad("T6", "trains a second time after the same ids", position=at)
        trained.add(key)


def _check_values(sample: Sample, found: Findings, tokenizer: Tokenizer | None) -> None:
    size = tokenizer.info.vocab_size if tokenizer is not None else LARGEST
    found.looked("S2", len(sample.ids))
    found.looked("L2", sum(sample.mask))
    for at, (token_id, mask, logprob) in enumerate(zip(sample.ids, sample.mask, sample.logprobs, strict=True)):
        if not 0 <= token_id < size:
            found.bad("S2", f"id {token_id} is not in a vocabulary of {size}", position=at)
        if mask and (logprob is None or not math.isfinite(logprob)):
            found.bad("L2", f"its logprob is {logprob}, no finite number", position=at)
        elif mask and logprob is not None and not FILLER < logprob <= SLACK:
            found.bad("L2", f"its logprob is {logprob}", position=at)
    if sample.versions is None:
        return
    found.looked("V2", len(sample.versions))
    for at, version in enumerate(sample.versions):
        if version < -1:
            found.bad("V2", f"its version is {version}", position=at)


def _places(sample: Sample) -> Iterable[int]:
    return (at for at, mask in enumerate(sample.mask) if mask)


def trains(sample: Sample) -> Iterable[Trained]:
    """What each id with mask 1 trains, in order."""
    before = hashlib.sha256()
    for token_id, mask, logprob in zip(sample.ids, sample.mask, sample.logprobs, strict=True):
        if mask:
            yield before.digest(), token_id, logprob
        before.update(token_id.to_bytes(8, "little", signed=True))


def _of_records(records: Sequence[dict[str, Any]]) -> Iterable[Sample]:
    for record in records:
        for segment in record["segments"]:
            yield Sample(
                name=record["rollout_id"],
                ids=segment["token_ids"],
                mask=segment["loss_mask"],
                logprobs=segment["logprobs"],
            )


def _compare(samples: Iterable[Sample], against: bytes, report: Report) -> None:
    """D4."""
    records = read_records(against)
    if records is None:
        raise Unreadable("The file to hold it against is no traj/1 export.")
    wanted = Counter(each for sample in _of_records(records) for each in trains(sample))
    have = Counter(each for sample in samples for each in trains(sample))
    lost, added = sum((wanted - have).values()), sum((have - wanted).values())
    message = (
        f"of {sum(wanted.values())} ids that train in the record {lost} do not here; {added} do here and not there"
    )
    report.checked["D4"] = sum(wanted.values())
    if lost or added:
        Findings(report, 1, "").bad("D4", message)
