"""What makes damage to a record visible, and where: a check value a token, a digest a call, a seal a record.

Each is computed from the one before it, so a changed, lost or moved entry cannot cancel out. They find damage, not forgery:
whoever can rewrite a record can seal it again, and then only the engine's own forward pass tells.
"""

import hashlib
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from perdure.tokens.experts import decoded, row_checks
from perdure.tokens.record import Call, Rollout, SegmentRecord

_TOKEN = struct.Struct("<ifBiiBBi")
_LINK = msgspec.json.Encoder()
_NO_LOGPROB = float("nan")


def float32_bits(values: Sequence[float | None]) -> bytes:
    """float32 little-endian; None (a value the engine did not give) is a NaN. OverflowError for what no float32 holds."""
    return b"".join(_F32.pack(_NO_LOGPROB if value is None else value) for value in values)


_F32 = struct.Struct("<f")


def is_float32(value: float) -> bool:
    """The double equals some float32, as every logprob in a record must."""
    try:
        return _F32.unpack(_F32.pack(value))[0] == value
    except OverflowError:
        return False


def first_check(segment_id: str) -> int:
    """What stands before a segment's first token in its chain of check values."""
    return zlib.crc32(segment_id.encode())


def token_check(
    before: int,
    token_id: int,
    logprob: float | None,
    mask: int,
    call: int,
    message: int,
    role: int,
    content: int,
    version: int,
) -> int | None:
    """The check value of one token; None if an entry is outside what its array may hold."""
    try:
        packed = _TOKEN.pack(
            token_id, _NO_LOGPROB if logprob is None else logprob, mask, call, message, role, content, version
        )
    except (struct.error, OverflowError):
        return None
    return zlib.crc32(packed, before)


def token_checks(segment_id: str, rows: Iterator[tuple[Any, ...]]) -> list[int]:
    """The chain for rows of (token_id, logprob, mask, call, message, role, content, version)."""
    chain: list[int] = []
    before = first_check(segment_id)
    pack, crc = _TOKEN.pack, zlib.crc32
    for row in rows:
        if row[1] is None:
            row = (row[0], _NO_LOGPROB, *row[2:])
        before = crc(pack(*row), before)
        chain.append(before)
    return chain


def rows_of(segment: SegmentRecord) -> Iterator[tuple[Any, ...]]:
    return zip(
        segment.token_ids,
        segment.logprobs,
        segment.loss_mask,
        segment.call_index,
        segment.message_index,
        segment.role,
        segment.is_content,
        segment.version,
        strict=False,
    )


def chain_start(rollout_id: str) -> str:
    return hashlib.sha256(f"traj/1 {rollout_id}".encode()).hexdigest()


def call_digest(before: str, call: Call, segment: SegmentRecord) -> str:
    """The link after `before`: what identifies the call and its routed experts, then the ids, logprob bits and mask from
    `delta_start` to its end."""
    end = call.start + call.length
    head: list[Any] = [
        before,
        call.call_id,
        call.segment_id,
        call.delta_start,
        call.start,
        call.length,
        call.weight_versions,
    ]
    if call.routed_experts is not UNSET:
        head.append(call.routed_experts)
    link = hashlib.sha256(_LINK.encode(head))
    link.update(array("q", segment.token_ids[call.delta_start : end]).tobytes())
    link.update(float32_bits(segment.logprobs[call.delta_start : end]))
    link.update(array("q", segment.loss_mask[call.delta_start : end]).tobytes())
    return link.hexdigest()


def record_seal(record: dict[str, Any]) -> str:
    """SHA-256 of the line as written, without its `record_sha256`."""
    rest = {key: value for key, value in record.items() if key != "record_sha256"}
    return hashlib.sha256(msgspec.json.encode(rest)).hexdigest()


def _checked(segment: SegmentRecord) -> SegmentRecord:
    checks, experts = token_checks(segment.segment_id, rows_of(segment)), segment.routed_experts
    if experts is not None:
        experts = msgspec.structs.replace(experts, check=row_checks(decoded(experts), checks))
    return msgspec.structs.replace(segment, check=checks, routed_experts=experts)


def seal(rollout: Rollout) -> dict[str, Any]:
    """The record ready to write: call digests chained, check values and seal filled in."""
    segments = [_checked(segment) for segment in rollout.segments]
    link, calls = chain_start(rollout.rollout_id), list[Call]()
    for call in rollout.calls:
        link = call_digest(link, call, segments[call.segment_index])
        calls.append(msgspec.structs.replace(call, digest=link))
    record = msgspec.to_builtins(msgspec.structs.replace(rollout, segments=segments, calls=calls, digest=link))
    record["record_sha256"] = record_seal(record)
    return record
