"""What cron expressions mean, through the changes of the clocks, and which are refused."""

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.errors import Invalid
from perdure.runs.cron import next_time, times


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


def shown(cron: str, zone: str, after: str, number: int, form: str = "%d %H:%M") -> list[str]:
    """The next moments on the zone's clocks."""
    moments = islice(times(cron, zone, at(after, zone)), number)
    return [datetime.fromtimestamp(moment / 1e6, ZoneInfo(zone)).strftime(form) for moment in moments]


@pytest.mark.parametrize(
    ("cron", "days"),
    [
        ("0 0 * * MON-FRI", "01-01 01-02 01-05 01-06"),
        ("0 0 * * mon,Wed", "01-05 01-07 01-12 01-14"),
        ("0 0 1 jan-MAR *", "01-01 02-01 03-01 01-01"),
        ("0 0 * * 7", "01-04 01-11 01-18 01-25"),
        ("0 0 * * 5-7", "01-02 01-03 01-04 01-09"),
        ("0 0 * * 7-1", "01-04 01-05 01-11 01-12"),
        ("0 0 * * SAT-MON", "01-03 01-04 01-05 01-10"),
        ("0 0 1 NOV-FEB *", "01-01 02-01 11-01 12-01"),
        ("0 0 28-2 * *", "01-01 01-02 01-28 01-29"),
        ("0 0 * * 1/2", "01-02 01-05 01-07 01-09"),
        ("0 0 1-31/10 * *", "01-01 01-11 01-21 01-31"),
        ("0 0 13 * 5", "01-02 01-09 01-13 01-16"),
        ("0 0 */10 * MON", "01-01 01-05 01-11 01-12"),
        ("0 0 13 * */5", "01-02 01-04 01-09 01-11"),
        ("0 0 * * */3", "01-03 01-04 01-07 01-10"),
        ("0 0 ? * MON", "01-05 01-12 01-19 01-26"),
        ("0 0 *,7 * MON", "01-05 01-12 01-19 01-26"),
        ("0 0 5,* * MON", "01-05 01-12 01-19 01-26"),
        ("0 0 30 2 MON", "02-02 02-09 02-16 02-23"),
        ("0 0 1-31 * */3", "01-03 01-04 01-07 01-10"),
        ("0 0 L * *", "01-31 02-28 03-31 04-30"),
        ("0 0 LW * *", "01-30 02-27 03-31 04-30"),
        ("0 0 * * L5", "01-30 02-27 03-27 04-24"),
        ("0 0 * * 5L", "01-30 02-27 03-27 04-24"),
        ("0 0 * * fri#3", "01-16 02-20 03-20 04-17"),
        ("0 0 * * 7#1,1#2", "01-04 01-12 02-01 02-09"),
        ("0 0 29 2 *", "02-29 02-29 02-29 02-29"),
    ],
)
def test_the_days_an_expression_means(cron: str, days: str) -> None:
    assert shown(cron, "UTC", "2025-12-31T12:00", 4, "%m-%d") == days.split()


@pytest.mark.parametrize(
    ("cron", "moments"),
    [
        ("5/20 9 * * *", "09:05 09:25 09:45 09:05"),
        ("50-10 9 * * *", "09:00 09:01 09:02 09:03"),
        ("0 22-2 * * *", "00:00 01:00 02:00 22:00"),
        ("*/40 * * * *", "00:00 00:40 01:00 01:40"),
        ("0 3/9 * * *", "03:00 12:00 21:00 03:00"),
        ("007 09 * * *", "09:07 09:07 09:07 09:07"),
    ],
)
def test_the_times_an_expression_means(cron: str, moments: str) -> None:
    assert shown(cron, "UTC", "2025-12-31T23:59", 4, "%H:%M") == moments.split()


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("@daily", "1 fields; five are needed"),
        ("0 0 * * * *", "6 fields; five are needed"),
        ("0 24 * * *", "hour '24'"),
        ("0 0 0 * *", "day of the month '0'"),
        ("0 0 * 13 *", "month '13'"),
        ("0 0 * * 8", "day of the week '8'"),
        ("0 0 * * MONDAY", "day of the week 'MONDAY'"),
        ("0 ? * * *", "hour '?'"),
        ("1,, * * * *", "minute ''"),
        ("*-5 * * * *", "minute '*-5'"),
        ("٣ * * * *", "minute '٣'"),
        ("*/0 * * * *", "a step is 1 or more"),
        ("5-5 * * * *", "ends at another minute than it begins"),
        ("0 0 * * 7-0", "ends at another day of the week than it begins"),
        ("0 22-4/2 * * *", "a range over the end of a round has no step"),
        ("0 0 15W * *", "day of the month '15W'"),
        ("0 0 1-L * *", "day of the month 'L'"),
        ("0 0 * * 5#6", "day of the week '5#6'"),
        ("0 0 * * FRIL", "day of the week 'FRIL'"),
        ("0 0 1 * MON#1", "goes with no day of the month"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6 *", "never comes"),
    ],
)
def test_what_has_no_or_more_than_one_meaning_is_refused(cron: str, why: str) -> None:
    with pytest.raises(Invalid) as refused:
        next_time(cron, "Europe/Berlin", at("2026-01-01T00:00"))
    assert refused.value.status == 422
    assert refused.value.message.startswith(f"cron_expression: {cron!r} ") and why in refused.value.message


@pytest.mark.parametrize(
    ("cron", "moments"),
    [
        ("30 2 * * *", "29 03:00, 30 02:30"),
        ("0,30 2 * * *", "29 03:00, 30 02:00, 30 02:30"),
        ("0 2,3 * * *", "29 03:00, 30 02:00"),
        ("*/15 2 * * *", "29 03:00, 30 02:00, 30 02:15"),
        ("* 2 * * *", "29 03:00, 30 02:00, 30 02:01"),
        ("0 */2 * * *", "29 03:00, 29 04:00, 29 06:00"),
        ("30 * * * *", "29 01:30, 29 03:30, 29 04:30"),
    ],
)
def test_a_time_that_the_clocks_leave_out_comes_once_when_they_have_changed(cron: str, moments: str) -> None:
    expected = moments.split(", ")
    assert shown(cron, "Europe/Berlin", "2026-03-29T01:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "moments"),
    [
        ("30 2 * * *", "25 02:30 +0200, 26 02:30 +0100"),
        ("0 2,3 * * *", "25 02:00 +0200, 25 03:00 +0100"),
        ("*/30 2 * * *", "25 02:00 +0200, 25 02:30 +0200, 26 02:00 +0100"),
        ("0 */2 * * *", "25 02:00 +0200, 25 04:00 +0100"),
        ("30 * * * *", "25 01:30 +0200, 25 02:30 +0200, 25 02:30 +0100, 25 03:30 +0100"),
        ("*/30 */1 * * *", "25 01:30 +0200, 25 02:00 +0200, 25 02:30 +0200, 25 02:00 +0100"),
    ],
)
def test_a_time_that_the_clocks_show_twice_comes_once_unless_it_comes_every_hour(cron: str, moments: str) -> None:
    expected = moments.split(", ")
    assert shown(cron, "Europe/Berlin", "2026-10-25T01:00", len(expected), "%d %H:%M %z") == expected


CHANGES = {
    "Europe/Berlin": ("2026-03-29", "2026-10-25"),
    "America/Havana": ("2026-03-08", "2026-11-01"),  # at midnight
    "Asia/Beirut": ("2026-03-29", "2026-10-25"),  # back to the day before
    "Australia/Lord_Howe": ("2026-04-05", "2026-10-04"),  # by half an hour
    "Pacific/Apia": ("2011-12-30",),  # by a day
}
CRONS = ("*/7 * * * *", "5,35 * * * SUN", "30 2 * * *", "*/15 2 * * *", "30 0 * * *", "0 */2 * * *", "* 23 * * SAT")


@settings(deadline=None)
@given(
    change=st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days]),
    cron=st.sampled_from(CRONS),
    later_s=st.integers(0, 3 * 86_400),
)
def test_the_next_moment_is_the_same_whenever_one_asks(change: tuple[str, str], cron: str, later_s: int) -> None:
    zone, day = change
    start = at(str(datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1, hours=12))[:19])
    now = start + later_s * 1_000_000
    following = next_time(cron, zone, now)
    moments = [*takewhile(lambda moment: moment <= following, times(cron, zone, start))]
    assert moments == sorted(set(moments)) and moments[-1] == following
    assert all(moment <= now for moment in moments[:-1])
