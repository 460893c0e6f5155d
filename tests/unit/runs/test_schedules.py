"""What becomes of the moments of a schedule: fired, missed, made up for."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from perdure.core.errors import Invalid
from perdure.core.runs import RunConfig
from perdure.core.schedules import CatchUp, Schedule
from perdure.runs.schedules import due, next_time, times


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


def hourly(next_us: int, catch_up: CatchUp = "one") -> Schedule:
    return Schedule(
        id="schedule-1",
        agent_id="agent-1",
        created_us=0,
        next_us=next_us,
        inputs=(),
        config=RunConfig(),
        cron="0 * * * *",
        catch_up=catch_up,
    )


def told(schedule: Schedule, now: int) -> tuple[int | None, list[tuple[int, str, int]]]:
    following, ticks = due(schedule, now)
    return following, [(tick.due_us, tick.status, tick.count) for tick in ticks]


def test_a_moment_that_has_come_fires_and_the_next_is_known() -> None:
    now = at("2026-03-01T10:00:00")
    assert told(hourly(now), now + 200_000) == (at("2026-03-01T11:00:00"), [(now, "firing", 1)])


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", [("12:00", "missed", 3)]),
        ("one", [("11:00", "missed", 2), ("12:00", "firing", 1)]),
        ("all", [("10:00", "firing", 1), ("11:00", "firing", 1), ("12:00", "firing", 1)]),
    ],
)
def test_moments_nobody_was_there_for(catch_up: CatchUp, expected: list[tuple[str, str, int]]) -> None:
    following, ticks = told(hourly(at("2026-03-01T10:00:00"), catch_up), at("2026-03-01T12:30:00"))
    assert following == at("2026-03-01T13:00:00")
    assert ticks == [(at(f"2026-03-01T{hour}:00"), status, count) for hour, status, count in expected]


def test_a_moment_that_has_just_come_makes_up_for_those_before_it() -> None:
    _, ticks = told(hourly(at("2026-03-01T10:00:00")), at("2026-03-01T12:00:01"))
    assert ticks == [(at("2026-03-01T11:00:00"), "missed", 2), (at("2026-03-01T12:00:00"), "firing", 1)]


def test_years_of_moments_are_not_counted_one_by_one() -> None:
    following, ticks = due(hourly(at("2016-01-01T00:00:00"), "none"), at("2026-01-01T00:30:00"))
    assert following == at("2026-01-01T01:00:00")
    assert ticks[0].count == 10_000
    assert "or more" in (ticks[0].reason or "")


def test_a_day_begins_when_it_does_where_the_agent_is() -> None:
    nine = times("0 9 * * *", "Europe/Berlin", at("2026-03-27T12:00:00"))
    shown = [datetime.fromtimestamp(next(nine) / 1e6, UTC).strftime("%d %H:%M") for _ in range(3)]
    assert shown == ["28 08:00", "29 07:00", "30 07:00"]  # the clocks change on the 29th


@pytest.mark.parametrize("cron", ["", "* * * *", "61 * * * *", "* * * * * *", "often", "0 0 31 2 *"])
def test_an_expression_that_means_nothing_is_refused(cron: str) -> None:
    with pytest.raises(Invalid, match="cron_expression"):
        next_time(cron, "UTC", at("2026-01-01T00:00:00"))
