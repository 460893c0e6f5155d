"""What becomes of the moments of a schedule: fired, missed, made up for.

PERDURE_PROMISES=long: ten thousand lives of a schedule instead of a hundred.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.core.errors import Invalid
from perdure.core.ids import now_us
from perdure.core.runs import Run, RunConfig
from perdure.core.schedules import CatchUp, Schedule, Tick
from perdure.runs.cron import next_time, times
from perdure.runs.runner import Runner
from perdure.runs.schedules import Schedules, due
from perdure.store import schedules as schedule_store
from perdure.store.sqlite import SqliteStore

LIVES = 10_000 if os.environ.get("PERDURE_PROMISES") == "long" else 100
CRONS = ("* * * * *", "*/7 * * * *", "0 * * * *", "30 9 * * 1-5", "15 2 * * *")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
SECOND = 1_000_000


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


@pytest.mark.timeout(1800)
@settings(max_examples=LIVES, deadline=None)
@given(
    cron=st.sampled_from(CRONS),
    zone=st.sampled_from(ZONES),
    catch_up=st.sampled_from(("none", "one", "all")),
    looks_s=st.lists(st.one_of(st.integers(1, 90), st.integers(90, 40_000)), min_size=1, max_size=12),
)
def test_every_moment_is_fired_or_counted_as_missed_whenever_somebody_looks(
    cron: str, zone: str, catch_up: CatchUp, looks_s: list[int]
) -> None:
    """Somebody looks now and then, with pauses of seconds or of most of a day, over a change of the clocks."""
    now = at("2026-03-28T20:00:00")
    first = next_time(cron, zone, now)
    schedule = replace(hourly(first, catch_up), cron=cron, timezone=zone)
    fired: list[int] = []
    missed = 0
    for pause_s in looks_s:
        now += pause_s * SECOND
        if schedule.next_us is None or schedule.next_us > now:
            continue
        following, ticks = due(schedule, now)
        fired += [tick.due_us for tick in ticks if tick.status == "firing"]
        missed += sum(tick.count for tick in ticks if tick.status == "missed")
        assert all(tick.reason for tick in ticks if tick.status == "missed")
        schedule = replace(schedule, next_us=following)
    moments = [first, *takewhile(lambda moment: moment <= now, times(cron, zone, first))] if first <= now else []
    assert len(fired) + missed == len(moments)
    assert fired == sorted(set(fired)) and set(fired) <= set(moments)
    assert schedule.next_us is not None and schedule.next_us > now


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


@dataclass
class FakeRunner:
    """Takes every run at once."""

    fired: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def submit(self, run: Run, *_: Any, wait: bool) -> Any:
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        durable.set_result(None)
        self.fired.put_nowait(run.metadata["schedule_id"])
        return type("Submitted", (), {"durable": durable, "run_id": run.id})


@pytest.fixture
async def fired(store: SqliteStore) -> AsyncIterator[asyncio.Queue[str]]:
    """The schedules that fire, as they do."""
    runner = FakeRunner()
    schedules = Schedules(store, cast(Runner, runner))
    await schedules.start()
    yield runner.fired
    await schedules.stop()


async def add(store: SqliteStore, cron: str, *, before_s: float, timezone: str = "UTC") -> Schedule:
    """One that was due so many seconds ago."""
    due_us = now_us() - int(before_s * SECOND)
    made = replace(hourly(due_us), id=f"schedule-{cron}", cron=cron, timezone=timezone)
    await store.write(lambda: schedule_store.create_schedule(made))
    return made


async def state(store: SqliteStore, schedule: Schedule) -> tuple[int | None, list[Tick]]:
    found = await store.read(lambda: schedule_store.schedule_by_id(schedule.agent_id, schedule.id))
    return found.next_us, await store.read(lambda: schedule_store.ticks_of(schedule.id, before=1 << 62, limit=10))


async def test_an_expression_that_is_not_understood_any_more_ends_its_schedule_on_record_and_holds_up_no_other(
    store: SqliteStore, fired: asyncio.Queue[str]
) -> None:
    old = await add(store, "0 9 15W * *", before_s=9)
    await add(store, "* * * * *", before_s=1)
    assert await asyncio.wait_for(fired.get(), 20) == "schedule-* * * * *"
    next_us, (tick,) = await state(store, old)
    assert next_us is None
    assert tick.status == "skipped" and "'15W'" in (tick.reason or "") and "has ended" in (tick.reason or "")


async def test_a_schedule_in_a_time_zone_that_is_not_known_waits_and_holds_up_no_other(
    store: SqliteStore, fired: asyncio.Queue[str], caplog: pytest.LogCaptureFixture
) -> None:
    lost = await add(store, "0 9 * * *", before_s=9, timezone="Atlantis/Poseidonis")
    await add(store, "* * * * *", before_s=1)
    assert await asyncio.wait_for(fired.get(), 20) == "schedule-* * * * *"
    assert await state(store, lost) == (lost.next_us, [])
    assert "Atlantis/Poseidonis" in caplog.text
