"""Vectors on SQLite: a first look at their signs, in memory, then the exact similarity of the best.

SQLite knows no vectors, and many builds of Python cannot load an extension that does. So a vector's code (one bit a number: is
it positive?) is kept in memory, 32 bytes for 256 numbers; the codes that differ least from the query's name the candidates,
and only their vectors are read. Invariant: what is answered was compared exactly, and an archive with no more vectors than
there are candidates is searched exactly. Every search first reads the codes it has not seen, so several processes agree.
"""

import json
import struct
import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from functools import cache
from importlib.util import find_spec
from operator import mul
from typing import Any, NamedTuple, Protocol

from perdure.core.archives import Vector
from perdure.store.base import Many, Query, Row, Tx

KEPT_CODES = 2_000_000


class Near(NamedTuple):
    """A neighbour: where it is, and the cosine of the angle to it."""

    pos: int
    similarity: float


class Vectors(Protocol):
    """Vectors in the store. A scope is an archive or an agent; all vectors of one scope are of one embedding model."""

    def put(self, scope: str, vectors: Sequence[tuple[int, Vector]]) -> Tx[None]:
        """(position, vector of length one); what was at the position is replaced."""
        ...

    def nearest(
        self, scopes: Sequence[str], query: Vector, limit: int, among: Collection[int] | None = None
    ) -> Tx[list[Near]]:
        """The nearest of these scopes, nearest first. `among`: only at these positions."""
        ...


def candidates_for(dim: int) -> int:
    """How many vectors a search compares exactly: fewer where their longer codes tell more."""
    return 800 if dim <= 512 else 400 if dim <= 1024 else 200


def code_of(vector: Sequence[float]) -> bytes:
    """Its signs, the first number in the lowest bit."""
    bits = "".join("1" if value > 0 else "0" for value in reversed(vector))
    return int(bits or "0", 2).to_bytes((len(vector) + 7) // 8, "little")


class SignIndex:
    """Implements `Vectors` on SQLite. `use_numpy`: None takes it where it is installed; the answers are the same.

    numpy is loaded by the first search, not by the start of a server that may never be asked for one.
    """

    def __init__(self, *, use_numpy: bool | None = None) -> None:
        self._use_numpy = use_numpy
        self._scopes: OrderedDict[str, _Scope] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def _numpy(self) -> bool:
        return _has_numpy() if self._use_numpy is None else self._use_numpy

    def put(self, scope: str, vectors: Sequence[tuple[int, Vector]]) -> Tx[None]:
        yield Many(
            "put_vector",
            [
                {"scope": scope, "pos": pos, "code": code_of(vector), "vector": _packed(vector)}
                for pos, vector in vectors
            ],
        )

    def nearest(
        self, scopes: Sequence[str], query: Vector, limit: int, among: Collection[int] | None = None
    ) -> Tx[list[Near]]:
        most = max(candidates_for(len(query)), 2 * limit)
        if among is not None and len(among) <= most:
            rows = yield Query("vectors_at", {"scopes": json.dumps(list(scopes)), "at": json.dumps(sorted(among))})
            return self._ranked(rows, query, limit)
        code = code_of(query)
        found: list[tuple[int, int]] = []  # (bits that differ, seq)
        for scope in scopes:
            with self._lock:
                kept = yield from self._fresh(scope, len(code))
                found += kept.first_look(code, most, among)
        if len(scopes) > 1:
            found.sort()
        rows = yield Query("vectors_by_seq", {"seqs": json.dumps([seq for _, seq in found[: 2 * most]])})
        if len(rows) < 0.75 * min(len(found), 2 * most):
            self._drop(scopes)
        return self._ranked(rows, query, limit)

    def _fresh(self, scope: str, width: int) -> "Tx[_Scope]":
        """The scope's codes, with those that came since the last look."""
        kept = self._scopes.get(scope)
        if kept is None or kept.codes.width != width:
            kept = self._scopes[scope] = _Scope(_NumpyCodes(width) if self._numpy else _PlainCodes(width))
        self._scopes.move_to_end(scope)
        kept.add((yield Query("new_codes", {"scope": scope, "seen": kept.last_seq})))
        while len(self._scopes) > 1 and sum(len(each.seqs) for each in self._scopes.values()) > KEPT_CODES:
            self._scopes.popitem(last=False)
        return kept

    def _drop(self, scopes: Sequence[str]) -> None:
        """Many of the codes are of vectors that are gone: read them anew next time."""
        with self._lock:
            for scope in scopes:
                self._scopes.pop(scope, None)

    def _ranked(self, rows: Sequence[Row], query: Vector, limit: int) -> list[Near]:
        comparable = [row for row in rows if len(row[1]) == 4 * len(query)]
        compare = _similarities_by_numpy if self._numpy else _similarities
        similarities = compare(query, [row[1] for row in comparable])
        near = [Near(row[0], similarity) for row, similarity in zip(comparable, similarities, strict=True)]
        near.sort(key=lambda each: (-each.similarity, each.pos))
        return near[:limit]


class _Scope:
    """One scope's codes, in the order they came. A replaced or deleted vector's stay until too many of them do."""

    def __init__(self, codes: "_Codes") -> None:
        self.codes = codes
        self.seqs = array("q")
        self.positions = array("q")
        self.last_seq = 0

    def add(self, rows: Sequence[Row]) -> None:
        rows = [row for row in rows if len(row[2]) == self.codes.width]
        if rows:
            self.seqs.extend([row[0] for row in rows])
            self.positions.extend([row[1] for row in rows])
            self.codes.add([row[2] for row in rows])
            self.last_seq = rows[-1][0]

    def first_look(self, code: bytes, most: int, among: Collection[int] | None) -> list[tuple[int, int]]:
        at = None if among is None else self.codes.places(self.positions, among)
        return [(distance, self.seqs[i]) for distance, i in self.codes.nearest(code, most, at)]


class _Codes(Protocol):
    width: int

    def add(self, codes: Sequence[bytes]) -> None: ...

    def nearest(self, code: bytes, most: int, at: Sequence[int] | None) -> list[tuple[int, int]]:
        """(bits that differ, index) of the `most` nearest and those as near as the last of them, twice `most` at most.
        `at`: only of these."""
        ...

    def places(self, positions: "array[int]", among: Collection[int]) -> Sequence[int]:
        """Where in `positions` those are that are `among` these."""
        ...


class _PlainCodes:
    def __init__(self, width: int) -> None:
        self.width = width
        self._codes: list[int] = []

    def add(self, codes: Sequence[bytes]) -> None:
        self._codes += [int.from_bytes(code, "little") for code in codes]

    def nearest(self, code: bytes, most: int, at: Sequence[int] | None) -> list[tuple[int, int]]:
        query = int.from_bytes(code, "little")
        codes = self._codes if at is None else [self._codes[i] for i in at]
        distances = [(each ^ query).bit_count() for each in codes]
        furthest = _cutoff(Counter(distances), most)
        found = [(distance, i) for i, distance in enumerate(distances) if distance <= furthest]
        found.sort()
        return found[: 2 * most] if at is None else [(distance, at[i]) for distance, i in found[: 2 * most]]

    def places(self, positions: "array[int]", among: Collection[int]) -> Sequence[int]:
        return [i for i, pos in enumerate(positions) if pos in among]


class _NumpyCodes:
    """The same by whole arrays, which lets other threads run meanwhile."""

    def __init__(self, width: int) -> None:
        import numpy

        self.width = width
        self._numpy = numpy
        self._words = (width + 7) // 8
        self._size = 0
        self._codes: Any = numpy.zeros((self._words, 0), dtype="<u8")  # a column each: whole rows are added up faster

    def add(self, codes: Sequence[bytes]) -> None:
        numpy = self._numpy
        padded = b"".join(code.ljust(8 * self._words, b"\0") for code in codes)
        new = numpy.frombuffer(padded, dtype="<u8").reshape(-1, self._words)
        end = self._size + len(new)
        if end > self._codes.shape[1]:
            grown = numpy.zeros((self._words, max(end, 2 * self._codes.shape[1])), dtype="<u8")
            grown[:, : self._size] = self._codes[:, : self._size]
            self._codes = grown
        self._codes[:, self._size : end] = new.T
        self._size = end

    def nearest(self, code: bytes, most: int, at: Sequence[int] | None) -> list[tuple[int, int]]:
        numpy = self._numpy
        query = numpy.frombuffer(code.ljust(8 * self._words, b"\0"), dtype="<u8")
        codes = self._codes[:, : self._size]
        if at is not None:
            codes = codes[:, numpy.asarray(at, dtype=numpy.int64)]
        distances = numpy.zeros(codes.shape[1], dtype=numpy.int32)
        for word, signs in zip(codes, query, strict=True):
            distances += numpy.bitwise_count(word ^ signs)
        counts = numpy.bincount(distances)
        furthest = _cutoff({bits: int(count) for bits, count in enumerate(counts)}, most)
        indexes = numpy.flatnonzero(distances <= furthest)
        found = sorted(zip(distances[indexes].tolist(), indexes.tolist(), strict=True))
        return found[: 2 * most] if at is None else [(distance, int(at[i])) for distance, i in found[: 2 * most]]

    def places(self, positions: "array[int]", among: Collection[int]) -> Sequence[int]:
        numpy = self._numpy
        wanted = numpy.fromiter(among, dtype=numpy.int64, count=len(among))
        found: Any = numpy.flatnonzero(numpy.isin(numpy.frombuffer(positions, dtype=numpy.int64), wanted))
        return found


def _cutoff(counts: "dict[int, int] | Counter[int]", most: int) -> int:
    """The distance within which there are `most`, or all."""
    total = 0
    furthest = -1
    for furthest in sorted(counts):
        total += counts[furthest]
        if total >= most:
            break
    return furthest


def _packed(vector: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)


def _similarities(query: Vector, vectors: Sequence[bytes]) -> list[float]:
    unpack = struct.Struct(f"<{len(query)}f").unpack
    return [sum(map(mul, query, unpack(vector))) for vector in vectors]


def _similarities_by_numpy(query: Vector, vectors: Sequence[bytes]) -> list[float]:
    import numpy

    table = numpy.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), len(query))
    return (table @ numpy.frombuffer(query, dtype=numpy.float32)).tolist()


@cache
def _has_numpy() -> bool:
    """A numpy that counts bits, as those since 2.0 do."""
    if find_spec("numpy") is None:
        return False
    import numpy

    return hasattr(numpy, "bitwise_count")
