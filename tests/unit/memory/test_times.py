"""Times in and out: an agent's own timezone, whole days, and what cannot be read."""

from datetime import UTC, datetime

import pytest

from perdure.core.errors import ToolError
from perdure.memory.times import end_us, iso, spelt, start_us


def us(*parts: int) -> int:
    return round(datetime(*parts, tzinfo=UTC).timestamp() * 1_000_000)  # type: ignore[misc]


def test_times_without_offset_are_the_agents_own():
    assert start_us("2026-03-31T10:00:00", "start", "Europe/Berlin") == us(2026, 3, 31, 8)
    assert start_us("2026-03-31T10:00:00Z", "start", "Europe/Berlin") == us(2026, 3, 31, 10)
    assert start_us("2026-01-31 10:00+02:00", "start", "Europe/Berlin") == us(2026, 1, 31, 8)


@pytest.mark.parametrize("date", ["2026-03-31", " 20260331 "])
def test_a_date_alone_is_the_whole_day(date: str):
    assert start_us(date, "start", "UTC") == us(2026, 3, 31)
    assert end_us(date, "end", "UTC") == us(2026, 4, 1) - 1
    assert end_us(date, "end", "America/New_York") == us(2026, 4, 1, 4) - 1


def test_an_end_with_a_time_is_that_time():
    assert end_us("2026-03-31T00:00", "end", "UTC") == us(2026, 3, 31)


def test_no_time_is_no_bound():
    assert start_us(None, "start", "UTC") is None
    assert end_us("", "end", "UTC") is None


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "31.03.2026", "2026-03-31T25:00"])
def test_what_cannot_be_read_is_named(text: str):
    with pytest.raises(ToolError, match=r"end_date is .*write a date like"):
        end_us(text, "end_date", "UTC")


def test_the_edges_of_the_calendar_can_be_asked_for():
    assert end_us("9999-12-31", "end", "America/New_York") is not None
    assert start_us("0001-01-01", "start", "Asia/Tokyo") is not None


def test_times_are_written_in_the_agents_timezone():
    assert iso(us(2026, 3, 31, 12), "Europe/Berlin") == "2026-03-31T14:00:00+02:00"
    assert spelt(us(2026, 3, 31, 12), "UTC") == "2026-03-31 12:00:00 PM UTC+0000"
