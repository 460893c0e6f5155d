"""Sends messages by the clock: each moment of a schedule once, by one server, whether or not anybody is connected.

Invariant: every moment is on record as fired (with its run), skipped (why) or missed (how many). It is claimed before it is
sent, and sent under an otid of its own, so a crash in between sends it again without sending it twice.
"""

import asyncio
import logging

import msgspec

from perdure.core.errors import AgentError, Invalid, Stopping
from perdure.core.ids import new_id, now_us
from perdure.core.runs import Run
from perdure.core.schedules import Schedule, Tick
from perdure.core.timezones import UnknownTimeZone
from perdure.runs.cron import next_time, times
from perdure.runs.runner import Runner
from perdure.store import schedules as schedule_store
from perdure.store.base import Store

log = logging.getLogger(__name__)

LOOK_S = 0.5
LATE_US = 60_000_000  # later than this, a moment was missed: nobody was there for it
LOST_US = 15_000_000
MAX_CATCH_UP = 100
MAX_COUNTED = 10_000


def due(schedule: Schedule, now: int) -> tuple[int | None, list[Tick]]:
    """When the schedule comes next, and what becomes of its moments up to now."""
    assert schedule.next_us is not None
    if schedule.cron is None:
        return None, [_tick(schedule, schedule.next_us, now)]
    moments: list[int] = [schedule.next_us]
    following = None
    for moment in times(schedule.cron, schedule.timezone, schedule.next_us):
        if moment > now or len(moments) == MAX_COUNTED:
            following = moment
            break
        moments.append(moment)
    if following is not None and following <= now:  # years of minutes: the rest is not counted one by one
        following = next_time(schedule.cron, schedule.timezone, now)
    late = [moment for moment in moments if now - moment > LATE_US]
    punctual = [_tick(schedule, moment, now) for moment in moments[len(late) :]]
    if not late:
        return following, punctual
    if schedule.catch_up == "all":
        sent = late[-MAX_CATCH_UP:]
    else:
        # a moment that has just come makes up for those before it
        sent = late[-1:] if schedule.catch_up == "one" and not punctual else []
    lost = late[: len(late) - len(sent)]
    ticks = [_tick(schedule, moment, now) for moment in sent] + punctual
    if lost:
        missed = Tick(
            schedule_id=schedule.id,
            due_us=lost[-1],
            status="missed",
            count=len(lost),
            reason="no server was running" + (" (or more)" if len(moments) == MAX_COUNTED else ""),
            at_us=now,
        )
        ticks.insert(0, missed)
    return following, ticks


def _tick(schedule: Schedule, moment: int, now: int) -> Tick:
    return Tick(schedule_id=schedule.id, due_us=moment, status="firing", at_us=now)


def _refused(schedule: Schedule, error: Invalid, now: int) -> Tick:
    """An expression from before, of which this version knows no meaning."""
    assert schedule.next_us is not None
    return Tick(
        schedule_id=schedule.id,
        due_us=schedule.next_us,
        status="skipped",
        reason=f"{error.message}. The schedule has ended with this; make another one",
        at_us=now,
    )


class Schedules:
    def __init__(self, store: Store, runner: Runner) -> None:
        self._store = store
        self._runner = runner
        self._task: asyncio.Task[None] | None = None
        self._put_off: set[str] = set()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                now = now_us()
                for schedule in await self._store.read(lambda now=now: schedule_store.due_schedules(now)):
                    await self._claim(schedule, now)
                for tick, schedule in await self._store.read(
                    lambda now=now: schedule_store.firing_ticks(now - LOST_US)
                ):
                    await self._fire(schedule, tick)
            except AgentError:
                log.exception("looking for scheduled messages failed; trying again")
            await asyncio.sleep(LOOK_S)

    async def _claim(self, schedule: Schedule, now: int) -> None:
        try:
            following, ticks = due(schedule, now)
        except UnknownTimeZone as error:
            # another server may know it, or this one when it has been put right
            if schedule.id not in self._put_off:
                self._put_off.add(schedule.id)
                log.error("scheduled messages of %s (%s) wait: %s", schedule.agent_id, schedule.id, error.message)
            return
        except Invalid as error:
            following, ticks = None, [_refused(schedule, error, now)]
            log.error("%s of %s has ended: %s", schedule.id, schedule.agent_id, error.message)
        if await self._store.write(lambda: schedule_store.move_on(schedule, following, ticks)):
            for tick in ticks:
                if tick.status == "firing":
                    await self._fire(schedule, tick)

    async def _fire(self, schedule: Schedule, tick: Tick) -> None:
        now = now_us()
        run = Run(
            id=new_id("run"),
            agent_id=schedule.agent_id,
            conversation_id=schedule.agent_id,
            status="created",
            created_us=now,
            config=schedule.config,
            background=True,
            metadata={"run_type": "schedule", "schedule_id": schedule.id, "due_us": tick.due_us},
        )
        otid = f"{schedule.id}:{tick.due_us}"
        inputs = tuple(
            msgspec.structs.replace(
                message,
                id=new_id("message"),
                created_us=now + at,
                run_id=run.id,
                otid=otid if at == 0 else message.otid,
            )
            for at, message in enumerate(schedule.inputs)
        )
        try:
            submitted = await self._runner.submit(run, inputs, (otid,), wait=True)
            await submitted.durable
            ended = msgspec.structs.replace(tick, status="fired", run_id=submitted.run_id)
        except Stopping:
            return  # another process sends it, or this one when it is back
        except AgentError as error:
            log.warning("a scheduled message of %s was skipped: %s", schedule.agent_id, error.message)
            ended = msgspec.structs.replace(tick, status="skipped", reason=error.message)
        await self._store.write(lambda: schedule_store.end_tick(ended))
