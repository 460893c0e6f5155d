"""What is kept of model requests for traces: those of a conversation repeat each other, so most are kept as what is new in them.

A request within the limit is kept whole, of a larger one its two ends. The first of a conversation is kept as it is. From the
second on, each is kept as the pieces of a base, which is stored once, and of bytes of its own.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.ids import new_id

BASE_LIFE_US = 3_600_000_000  # bases are deleted so much later than traces
_MOST_NEW = 6  # a base is given up for another when this part of a request is new
_SMALL = 2_048  # bytes; what has fewer is kept as it is
_ALIKE = 32  # bytes by which a place is found again
_MOST_EDITS = 3
_GAP = 256  # bytes between two alike places that are not looked through
_DEPTHS = (_ALIKE, 16 * _ALIKE, 64 * _ALIKE)  # so far before the end of what differs they are looked for

Piece = tuple[int, int] | bytes  # (offset, length) in the base, or bytes of its own

_pack = msgspec.msgpack.Encoder().encode


class _Packed(Struct, frozen=True, array_like=True):
    """`bytes`: the request's length. `parts`: of the whole of it, or of each of its two ends."""

    bytes: int
    parts: list[list[Piece]]


_unpack = msgspec.msgpack.Decoder(_Packed).decode


class TraceBase(Struct, frozen=True):
    """`parts`: the whole of a request, or its two ends. `stored`: others are stored against it already."""

    id: str
    created_us: int
    parts: tuple[bytes, ...]
    stored: bool = False

    @property
    def text(self) -> bytes:
        return b"".join(self.parts)


class KeptRequest(Struct, frozen=True):
    """`body`: JSON, or against a base the pieces. `new_base`: to be stored with it."""

    body: bytes
    base_id: str | None = None
    new_base: TraceBase | None = None


def capped(body: bytes, limit: int) -> bytes:
    """Whole, or its two ends if it is larger than the limit."""
    return _shown(_ends(body, limit), len(body))


def kept(request: bytes, limit: int, before: TraceBase | None, now: int) -> tuple[KeptRequest, TraceBase]:
    """What to store of a request, and what the conversation's next one is to be kept against. `before`: what the last told."""
    parts = _ends(request, limit)
    size = sum(map(len, parts))
    if before is None or size < _SMALL or len(before.parts) != len(parts) or now - before.created_us > BASE_LIFE_US:
        return KeptRequest(_shown(parts, len(request))), TraceBase(new_id("trace-base"), now, parts)
    body = _against(before, parts, len(request))
    if len(body) * _MOST_NEW > size:
        before = TraceBase(new_id("trace-base"), now, parts)
        body = _against(before, parts, len(request))
    base = before if before.stored else msgspec.structs.replace(before, stored=True)
    return KeptRequest(body, base.id, None if before.stored else base), base


def restored(body: bytes, base: bytes) -> bytes:
    """The request as JSON again, as `capped` would have kept it. `base`: the text of what it was kept against."""
    packed = _unpack(body)
    parts = [
        b"".join(piece if isinstance(piece, bytes) else base[piece[0] : piece[0] + piece[1]] for piece in pieces)
        for pieces in packed.parts
    ]
    return _shown(parts, packed.bytes)


def _ends(body: bytes, limit: int) -> tuple[bytes, ...]:
    if len(body) <= limit:
        return (body,)
    half = limit // 2
    return body[:half], body[len(body) - half :]


def _shown(parts: Sequence[bytes], size: int) -> bytes:
    if len(parts) == 1:
        return parts[0]
    head, tail = (part.decode(errors="replace") for part in parts)
    cut: dict[str, Any] = {"truncated": True, "bytes": size, "head": head, "tail": tail}
    return msgspec.json.encode(cut)


def _against(base: TraceBase, parts: Sequence[bytes], size: int) -> bytes:
    at = 0
    pieces: list[list[Piece]] = []
    for old, new in zip(base.parts, parts, strict=True):
        pieces.append(_pieces(old, new, at))
        at += len(old)
    return _pack(_Packed(size, pieces))


def _pieces(old: bytes, new: bytes, at: int, edits: int = _MOST_EDITS) -> list[Piece]:
    """`new` as pieces of `old`, which begins at `at` in the base.

    They begin and end alike. What an edit of the prompt has moved, or the end of a window, is found by what it ends with, and
    what lies before and after that is looked at in the same way, for as many more `edits`.
    """
    if not new:
        return []
    if old == new:
        return [(at, len(new))]
    if not old or len(new) < _GAP or not edits:
        return [new]
    first = _common_start(old, new)
    last = _common_end(old[first:], new[first:])
    pieces: list[Piece] = [(at, first)] if first else []
    rest_old, rest_new = old[first : len(old) - last], new[first : len(new) - last]
    old_at, new_at, length = _moved(rest_old, rest_new)
    if length:
        old_end, new_end, rest_at = old_at + length, new_at + length, at + first
        pieces += _pieces(rest_old[:old_at], rest_new[:new_at], rest_at, edits - 1)
        pieces.append((rest_at + old_at, length))
        pieces += _pieces(rest_old[old_end:], rest_new[new_end:], rest_at + old_end, edits - 1)
    elif rest_new:
        pieces.append(rest_new)
    if last:
        pieces.append((at + len(old) - last, last))
    return pieces


def _moved(old: bytes, new: bytes) -> tuple[int, int, int]:
    """The longest stretch of both that is found: where it begins in each, and its length, 0 if there is none."""
    best = (0, 0, 0)
    for depth in _DEPTHS:
        if depth > len(old) or best[2] * 2 > len(old):
            break
        probe_at = len(old) - depth
        found = new.rfind(old[probe_at : probe_at + _ALIKE])
        if found < 0:
            continue
        before = _common_end(old[:probe_at], new[:found])
        length = before + _common_start(old[probe_at:], new[found:])
        if length > best[2]:
            best = (probe_at - before, found - before, length)
    return best


def _common_start(one: bytes, other: bytes) -> int:
    """How many bytes they begin alike with: found in growing, then in shrinking steps, of slices that are compared at once."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    at, step = 0, _ALIKE
    while one[at : at + step] == other[at : at + step]:
        at += step
        step *= 2
    while step > 1:
        step //= 2
        if one[at : at + step] == other[at : at + step]:
            at += step
    return at


def _common_end(one: bytes, other: bytes) -> int:
    """As `_common_start`, from the end."""
    of_one, of_other = len(one), len(other)
    most = min(of_one, of_other)
    if one[of_one - most :] == other[of_other - most :]:
        return most
    step = _ALIKE
    while most > step and one[of_one - step : of_one] == other[of_other - step : of_other]:
        of_one, of_other, most = of_one - step, of_other - step, most - step
        step *= 2
    while step > 1:
        step //= 2
        if step <= most and one[of_one - step : of_one] == other[of_other - step : of_other]:
            of_one, of_other, most = of_one - step, of_other - step, most - step
    return len(one) - of_one
