"""The routed experts of a record: from the calls' own parts to one array a segment, and back.

Invariant: row p of the array is of id p of its segment. Ids from `shape[0]` on have no row: the last one of a segment never has,
nor do those that were sampled while nobody asked.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Sequence

from perdure.core.errors import StoreError
from perdure.core.experts import SIZES, ExpertRows, as_dtype, joined, unpack
from perdure.core.tokens import TokenCall
from perdure.tokens.record import CallExperts, RoutedExperts


def call_experts(call: TokenCall) -> tuple[ExpertRows, CallExperts] | None:
    """A call's rows and what its record says of them. StoreError if what lies beside the record is missing or damaged."""
    kept = call.experts
    if kept is None:
        return None
    try:
        rows = unpack(kept)
    except ValueError as cause:
        raise StoreError(f"The routed experts of call {call.id}: what was kept of them {cause}.") from cause
    return rows, CallExperts(start=kept.start, count=kept.count, dtype=kept.dtype, sha256=kept.sha256)


def segment_experts(segment_id: str, parts: Sequence[ExpertRows]) -> RoutedExperts | None:
    """All the calls' rows of a segment, without its check values. StoreError if they do not follow one another from id 0."""
    if not parts:
        return None
    try:
        if parts[0].start != 0:
            raise ValueError(f"the first rows are of id {parts[0].start}")
        return encoded(joined(*parts))
    except ValueError as cause:
        raise StoreError(f"The routed experts of segment {segment_id} do not fit together: {cause}.") from cause


def encoded(rows: ExpertRows) -> RoutedExperts:
    return RoutedExperts(
        dtype=rows.dtype,
        shape=[rows.count, rows.layers, rows.top_k],
        num_experts=rows.num_experts,
        data=base64.b64encode(rows.data).decode(),
        check=[],
    )


def decoded(record: RoutedExperts) -> ExpertRows:
    """ValueError if the data is no base64 or has not the shape's size."""
    if len(record.shape) != 3 or min(record.shape) < 1:
        raise ValueError(f"shape is {record.shape}, not [ids, layers, experts an id]")
    count, layers, top_k = record.shape
    try:
        data = binascii.a2b_base64(record.data, strict_mode=True)
    except (binascii.Error, ValueError) as cause:
        raise ValueError(f"data is no base64: {cause}") from cause
    wanted = count * layers * top_k * SIZES[record.dtype]
    if len(data) != wanted:
        raise ValueError(f"data has {len(data)} bytes; shape {record.shape} of {record.dtype} takes {wanted}")
    return ExpertRows(
        start=0, layers=layers, top_k=top_k, dtype=record.dtype, data=data, num_experts=record.num_experts
    )


def row_checks(rows: ExpertRows, token_checks: Sequence[int]) -> list[int]:
    """One CRC-32 a row, begun with the check value of its id: a damaged row and a shifted one both show where they begin."""
    ends = [*token_checks[: rows.count], *[0] * (rows.count - len(token_checks))]
    return [zlib.crc32(rows.row(at), end & 0xFFFFFFFF) for at, end in enumerate(ends)]


def part_sha256(rows: ExpertRows, part: CallExperts) -> str | None:
    """The SHA-256 of a call's part as the call itself had it; None if the rows do not fit its numbers' width."""
    own = rows.cut(part.start, part.start + part.count)
    try:
        return hashlib.sha256(as_dtype(own.data, own.dtype, part.dtype)).hexdigest()
    except ValueError:
        return None
