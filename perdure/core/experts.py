"""Which experts of a mixture-of-experts model each id went to, as its engine tells it: a call's part, in memory and at rest.

Row p is of the forward pass that had id p as its input, so the last sampled id of a call has none: the next call in the
segment, whose prompt that id is in, begins with it. Invariant: the rows of a segment's calls follow one another without a gap
or an overlap, so storage is linear in turns.
"""

import hashlib
import zlib
from typing import Literal

from msgspec import Struct

Dtype = Literal["uint8", "uint16"]
SIZES: dict[str, int] = {"uint8": 1, "uint16": 2}
WORTH = 0.8  # compressed data has to be smaller than this share to be kept
TRIED = 64 * 1024  # bytes that tell whether compressing the rest will pay


class ExpertRows(Struct, frozen=True, kw_only=True):
    """Rows of segment ids [start, start + count), each of `layers` times `top_k` expert numbers, in the order the model's router
    ranked them; `data` is little-endian. A layer without experts has zeros. `num_experts`: of a layer, where it is known.
    """

    start: int
    layers: int
    top_k: int
    dtype: Dtype
    data: bytes
    num_experts: int | None = None

    @property
    def stride(self) -> int:
        """Bytes a row."""
        return self.layers * self.top_k * SIZES[self.dtype]

    @property
    def count(self) -> int:
        return len(self.data) // self.stride

    def row(self, at: int) -> bytes:
        return self.data[at * self.stride : (at + 1) * self.stride]

    def cut(self, begin: int, end: int) -> "ExpertRows":
        """Rows [begin, end) of these, counted from their own first."""
        data = self.data[begin * self.stride : end * self.stride]
        return ExpertRows(
            start=self.start + begin,
            layers=self.layers,
            top_k=self.top_k,
            dtype=self.dtype,
            data=data,
            num_experts=self.num_experts,
        )


class KeptExperts(Struct, frozen=True, kw_only=True):
    """A call's rows as its record has them. `data` lies beside the record (b"" where it was not fetched), packed as `coding`
    says; `sha256` is of the unpacked rows."""

    start: int
    count: int
    layers: int
    top_k: int
    dtype: Dtype
    sha256: str
    coding: Literal["raw", "zlib"] = "raw"
    num_experts: int | None = None
    data: bytes = b""

    @property
    def end(self) -> int:
        return self.start + self.count


def keep(rows: ExpertRows) -> KeptExperts:
    """Packed to be put on record. Reads some 50 MB a second: larger ones belong in a thread."""
    pays = _pays(rows.data[:TRIED])
    packed = zlib.compress(rows.data, 1) if pays else b""
    return KeptExperts(
        start=rows.start,
        count=rows.count,
        layers=rows.layers,
        top_k=rows.top_k,
        dtype=rows.dtype,
        sha256=hashlib.sha256(rows.data).hexdigest(),
        coding="zlib" if pays else "raw",
        num_experts=rows.num_experts,
        data=packed if pays else rows.data,
    )


def _pays(data: bytes) -> bool:
    return len(zlib.compress(data, 1)) < WORTH * len(data)


def unpack(kept: KeptExperts) -> ExpertRows:
    """ValueError if the data is missing, or not what was kept."""
    try:
        data = zlib.decompress(kept.data) if kept.coding == "zlib" else kept.data
    except zlib.error as cause:
        raise ValueError(f"cannot be unpacked: {cause}") from cause
    if len(data) != kept.count * kept.layers * kept.top_k * SIZES[kept.dtype]:
        raise ValueError(
            f"has {len(data)} bytes for {kept.count} rows of {kept.layers} times {kept.top_k} {kept.dtype}"
        )
    if hashlib.sha256(data).hexdigest() != kept.sha256:
        raise ValueError("is not what was kept: its SHA-256 is another")
    return ExpertRows(
        start=kept.start,
        layers=kept.layers,
        top_k=kept.top_k,
        dtype=kept.dtype,
        data=data,
        num_experts=kept.num_experts,
    )


def narrowed(data: bytes) -> tuple[Dtype, bytes]:
    """int32 little-endian numbers in as few bytes each as hold them all. ValueError for one below 0 or above 65,535."""
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes are no whole number of int32")
    low, high = data[0::4], data[1::4]
    if data[2::4].strip(b"\0") or data[3::4].strip(b"\0"):
        raise ValueError("an expert's number is below 0 or above 65,535")
    if not high.strip(b"\0"):
        return "uint8", low
    return "uint16", _woven(low, high)


def as_dtype(data: bytes, dtype: Dtype, wanted: Dtype) -> bytes:
    """The same numbers in another width. ValueError if they do not fit."""
    if dtype == wanted:
        return data
    if wanted == "uint16":
        return _woven(data, bytes(len(data)))
    if data[1::2].strip(b"\0"):
        raise ValueError("an expert's number is above 255")
    return data[0::2]


def joined(first: ExpertRows, *others: ExpertRows) -> ExpertRows:
    """One after the other. ValueError if their shapes differ, or one does not begin where the one before it ends."""
    dtype: Dtype = "uint16" if any(rows.dtype == "uint16" for rows in (first, *others)) else "uint8"
    pieces = [as_dtype(first.data, first.dtype, dtype)]
    end = first.start + first.count
    for rows in others:
        if (rows.layers, rows.top_k) != (first.layers, first.top_k):
            raise ValueError(
                f"a model of {first.layers} layers and {first.top_k} experts an id goes on as one of {rows.layers} and "
                f"{rows.top_k}"
            )
        if rows.start != end:
            raise ValueError(f"rows end at id {end} and go on at {rows.start}")
        pieces.append(as_dtype(rows.data, rows.dtype, dtype))
        end += rows.count
    return ExpertRows(
        start=first.start,
        layers=first.layers,
        top_k=first.top_k,
        dtype=dtype,
        data=b"".join(pieces),
        num_experts=first.num_experts,
    )


def numbers(rows: ExpertRows) -> list[list[list[int]]]:
    """[rows][layers][top_k]."""
    flat = list(memoryview(rows.data).cast("B" if rows.dtype == "uint8" else "H"))
    width = rows.layers * rows.top_k
    return [
        [flat[at + layer : at + layer + rows.top_k] for layer in range(0, width, rows.top_k)]
        for at in range(0, len(flat), width)
    ]


def _woven(low: bytes, high: bytes) -> bytes:
    woven = bytearray(2 * len(low))
    woven[0::2] = low
    woven[1::2] = high
    return bytes(woven)
