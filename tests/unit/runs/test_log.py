"""A run's live log: every follower sees every event once, in order, from wherever it starts."""

import asyncio

import pytest

from perdure.core.events import Event, LogEnded, RunStarted
from perdure.runs import log
from perdure.runs.log import Logs, RunLog


def event(number: int) -> Event:
    return RunStarted(f"run-{number}", number)


async def read(log: RunLog, after: int = 0) -> list[tuple[int, Event]]:
    found: list[tuple[int, Event]] = []
    async for first, events in log.follow(after):
        found.extend(enumerate(events, first))
    return found


async def test_followers_that_come_at_any_time_see_the_same() -> None:
    log = RunLog("run-1")
    early = asyncio.create_task(read(log))
    log.append([event(1), event(2)])
    await asyncio.sleep(0)
    middle = asyncio.create_task(read(log, after=1))
    log.append([event(3)])
    log.append([LogEnded()])
    whole = [(1, event(1)), (2, event(2)), (3, event(3)), (4, LogEnded())]
    assert await early == whole
    assert await middle == whole[1:]
    assert await read(log, after=3) == whole[3:]


async def test_a_log_with_a_stored_beginning_numbers_on() -> None:
    log = RunLog("run-1", base=10)
    log.append([event(1), LogEnded()])
    assert [seq for seq, _ in await read(log, after=10)] == [11, 12]


async def test_an_idle_follower_gets_an_empty_batch() -> None:
    log = RunLog("run-1")
    batches = log.follow(idle_s=0.01)
    assert await anext(batches) == (1, [])
    log.append([event(1)])
    assert await anext(batches) == (1, [event(1)])
    log.abandon()
    assert [batch async for batch in batches] == []


async def test_the_logs_that_ended_first_make_room_for_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "KEPT_EVENTS", 10)
    logs = Logs()

    def ended(name: str, length: int) -> RunLog:
        made = logs.keep(RunLog(name))
        made.append([*(event(number) for number in range(length - 1)), LogEnded()])
        logs.over(made)
        return made

    going = logs.keep(RunLog("going"))
    going.append([event(number) for number in range(50)])
    ended("first", 4)
    ended("second", 4)
    assert set(logs) == {"going", "first", "second"}
    ended("third", 4)
    assert set(logs) == {"going", "second", "third"}
    taken_up = logs.keep(RunLog("second"))  # by another run of the loop
    ended("fourth", 6)
    assert set(logs) == {"going", "second", "third", "fourth"}
    logs.over(taken_up)
    ended("huge", 100)
    assert set(logs) == {"going"}
