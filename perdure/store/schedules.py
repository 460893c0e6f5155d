"""Schedules and their ticks in the database. A moment is claimed by moving its schedule on: who moves it, fires it."""

from collections.abc import Sequence

import msgspec

from perdure.core.errors import NotFound
from perdure.core.schedules import Schedule, Tick
from perdure.store.base import Query, Row, Tx
from perdure.store.listing import Filters, Page, Source, list_rows

_json = msgspec.json.Encoder().encode
_schedule = msgspec.json.Decoder(Schedule).decode
_SCHEDULES = Source("s.body, s.next_us", "schedules", "s")


def create_schedule(schedule: Schedule) -> Tx[None]:
    yield Query(
        "insert_schedule",
        {
            "id": schedule.id,
            "agent_id": schedule.agent_id,
            "created_us": schedule.created_us,
            "next_us": schedule.next_us,
            "body": _json(schedule),
        },
    )


def schedule_by_id(agent_id: str, schedule_id: str) -> Tx[Schedule]:
    rows = yield Query("schedule_by_id", {"id": schedule_id, "agent_id": agent_id})
    if not rows:
        raise NotFound(f"Scheduled message {schedule_id} not found")
    return _read(rows[0])


def list_schedules(agent_id: str, page: Page) -> Tx[list[Schedule]]:
    filters = Filters()
    filters.add("s.agent_id = :agent_id", agent_id=agent_id)
    rows = yield from list_rows(_SCHEDULES, filters, page, what="Scheduled message")
    return [_read(row) for row in rows]


def delete_schedule(agent_id: str, schedule_id: str) -> Tx[None]:
    if not (yield Query("delete_schedule", {"id": schedule_id, "agent_id": agent_id})):
        raise NotFound(f"Scheduled message {schedule_id} not found")
    yield Query("delete_ticks", {"id": schedule_id})


def due_schedules(now: int) -> Tx[list[Schedule]]:
    rows = yield Query("due_schedules", {"now": now})
    return [_read(row) for row in rows]


def move_on(schedule: Schedule, next_us: int | None, ticks: Sequence[Tick]) -> Tx[bool]:
    """Claim the moments up to now, with what is to become of each; False if another process did."""
    moved = yield Query("move_schedule", {"id": schedule.id, "due_us": schedule.next_us, "next_us": next_us})
    if not moved:
        return False
    for tick in ticks:
        yield Query("insert_tick", msgspec.structs.asdict(tick))
    return True


def firing_ticks(before: int) -> Tx[list[tuple[Tick, Schedule]]]:
    """Claimed before then, and not known to have been sent."""
    rows = yield Query("firing_ticks", {"before": before})
    return [(_tick(row), _schedule(row[7])) for row in rows]


def end_tick(tick: Tick) -> Tx[None]:
    yield Query(
        "end_tick",
        {
            "schedule_id": tick.schedule_id,
            "due_us": tick.due_us,
            "status": tick.status,
            "run_id": tick.run_id,
            "reason": tick.reason,
        },
    )


def ticks_of(schedule_id: str, *, before: int, limit: int) -> Tx[list[Tick]]:
    """The latest first."""
    rows = yield Query("ticks_of_schedule", {"schedule_id": schedule_id, "before": before, "limit": limit})
    return [_tick(row) for row in rows]


def _read(row: Row) -> Schedule:
    return msgspec.structs.replace(_schedule(row[0]), next_us=row[1])


def _tick(row: Row) -> Tick:
    return Tick(
        schedule_id=row[0], due_us=row[1], status=row[2], count=row[3], run_id=row[4], reason=row[5], at_us=row[6]
    )
