"""Rows of experts keep their numbers, whatever their width, however they are packed."""

import random
from array import array

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.experts import ExpertRows, as_dtype, joined, keep, narrowed, numbers, unpack


def rows_of(values: list[int], *, start: int = 0, layers: int = 2, top_k: int = 2) -> ExpertRows:
    dtype, data = narrowed(array("i", values).tobytes())
    return ExpertRows(start=start, layers=layers, top_k=top_k, dtype=dtype, data=data)


def flat(rows: ExpertRows) -> list[int]:
    return [expert for row in numbers(rows) for layer in row for expert in layer]


@given(st.lists(st.integers(0, 65_535), min_size=4, max_size=64).map(lambda v: v[: len(v) // 4 * 4]))
def test_numbers_survive_narrowing_and_packing(values: list[int]) -> None:
    rows = rows_of(values)
    assert rows.dtype == ("uint8" if max(values) < 256 else "uint16")
    assert flat(rows) == values and rows.count == len(values) // 4
    assert unpack(keep(rows)) == rows


@pytest.mark.parametrize("bad", [[-1], [65_536], [3, 2**31 - 1]])
def test_numbers_that_no_expert_has_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="below 0 or above 65,535"):
        narrowed(array("i", bad).tobytes())


def test_rows_that_repeat_are_compressed_and_others_are_not() -> None:
    same, noise = rows_of([1, 2, 3, 4] * 200), rows_of(list(random.Random(1).randbytes(400)))
    assert keep(same).coding == "zlib" and len(keep(same).data) < 100
    assert keep(noise).coding == "raw" and keep(noise).data == noise.data


def test_what_lies_at_rest_is_held_to_what_was_kept() -> None:
    kept = keep(rows_of([1, 2, 3, 4] * 200))
    other = keep(rows_of([1, 2, 3, 5] * 200))
    for damaged, why in (
        (b"", "cannot be unpacked"),
        (kept.data[:-3], "cannot be unpacked"),
        (other.data, "SHA-256 is another"),
        (keep(rows_of([1, 2, 3, 4] * 100)).data, "bytes for 200 rows"),
    ):
        with pytest.raises(ValueError, match=why):
            unpack(msgspec.structs.replace(kept, data=damaged))


def test_rows_are_joined_in_the_wider_type_and_only_where_they_fit() -> None:
    first, second = rows_of([1, 2, 3, 4]), rows_of([5, 6, 300, 7], start=1)
    whole = joined(first, second)
    assert (whole.dtype, flat(whole)) == ("uint16", [1, 2, 3, 4, 5, 6, 300, 7])
    assert whole.cut(1, 2) == second
    with pytest.raises(ValueError, match="end at id 1 and go on at 2"):
        joined(first, rows_of([5, 6, 7, 8], start=2))
    with pytest.raises(ValueError, match="2 layers and 2 experts an id goes on as one of 1 and 4"):
        joined(first, rows_of([5, 6, 7, 8], start=1, layers=1, top_k=4))


def test_a_width_too_small_is_refused() -> None:
    assert as_dtype(b"\x01\x00\x02\x00", "uint16", "uint8") == b"\x01\x02"
    with pytest.raises(ValueError, match="above 255"):
        as_dtype(b"\x01\x01", "uint16", "uint8")
