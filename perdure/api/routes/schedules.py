"""Messages that are sent by the clock: `agents/{id}/schedule`."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.errors import json_response
from perdure.api.input_messages import input_messages
from perdure.api.message_requests import decode_send, run_config
from perdure.api.paging import AgentId
from perdure.api.services import services
from perdure.api.to_wire import iso
from perdure.core.errors import Invalid
from perdure.core.ids import new_id, now_us
from perdure.core.schedules import CatchUp, Schedule
from perdure.core.timezones import time_zone
from perdure.providers.images import fetched, has_addresses
from perdure.runs.cron import next_time
from perdure.store import schedules as schedule_store
from perdure.store.agents import agent_by_id, check_agent
from perdure.store.listing import Page

router = APIRouter(prefix="/agents/{agent_id}/schedule", tags=["schedule"])

MILLISECONDS_FROM = 1e11  # as seconds, this would be in the year 5138


class Once(BaseModel):
    """`scheduled_at`: seconds or milliseconds since the epoch."""

    type: Literal["one-time"] = "one-time"
    scheduled_at: float


class Recurring(BaseModel):
    """`cron_expression`: five fields, in the agent's timezone."""

    type: Literal["recurring"]
    cron_expression: str


class ScheduleIn(BaseModel):
    messages: list[dict[str, Any]] = Field(min_length=1)
    schedule: Recurring | Once
    max_steps: float | None = None
    callback_url: str | None = None
    include_return_message_types: list[str] | None = None
    catch_up: CatchUp = "one"


@router.post("", operation_id="create_schedule")
async def create(request: Request, agent_id: AgentId, body: ScheduleIn) -> Response:
    parts = services(request)
    agent = await parts.store.read(lambda: agent_by_id(agent_id))
    now = now_us()
    shown = body.model_dump(exclude={"schedule", "catch_up"}, exclude_none=True)
    if isinstance(body.schedule, Once):
        shown["scheduled_at"] = body.schedule.scheduled_at
    send = decode_send(msgspec.json.encode({**shown, **_whole_steps(body.max_steps)}))
    inputs, _ = input_messages(send, agent_id=agent_id, conversation_id=agent_id, run_id="", now=now)
    if has_addresses(inputs):
        inputs = await fetched(inputs, parts.web)
    cron = body.schedule.cron_expression if isinstance(body.schedule, Recurring) else None
    schedule = Schedule(
        id=new_id("schedule"),
        agent_id=agent_id,
        created_us=now,
        next_us=_first(body.schedule, agent.timezone, now),
        inputs=inputs,
        config=run_config(send, streaming=False, background=True),
        cron=cron,
        timezone=agent.timezone,
        catch_up=body.catch_up,
        shown=shown,
    )
    await parts.store.write(lambda: schedule_store.create_schedule(schedule))
    return json_response({"id": schedule.id, "next_scheduled_at": iso(schedule.next_us)}, 201)


def _whole_steps(max_steps: float | None) -> dict[str, int]:
    if max_steps is None:
        return {}
    if max_steps != int(max_steps):
        raise Invalid(f"max_steps: must be a whole number, not {max_steps}", status=422)
    return {"max_steps": int(max_steps)}


def _first(schedule: Once | Recurring, timezone: str, now: int) -> int:
    if isinstance(schedule, Recurring):
        return next_time(schedule.cron_expression, timezone, now)
    at = schedule.scheduled_at
    if not math.isfinite(at) or at <= 0:
        raise Invalid("schedule.scheduled_at: give seconds or milliseconds since the epoch", status=422)
    at_us = int(at * (1_000 if at >= MILLISECONDS_FROM else 1_000_000))
    if at_us < now - 60_000_000:
        when = datetime.fromtimestamp(at_us / 1e6, UTC).astimezone(time_zone(timezone)).isoformat()
        raise Invalid(f"schedule.scheduled_at: {when} is in the past")
    return at_us


@router.get("", operation_id="list_schedules")
async def listed(
    request: Request,
    agent_id: AgentId,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    after: str | None = None,
) -> Response:
    """Newest first; `after` goes on after that one."""
    store = services(request).store
    await store.read(lambda: check_agent(agent_id))
    found = await store.scan(lambda: schedule_store.list_schedules(agent_id, Page(after=after, limit=limit + 1)))
    return json_response(
        {"has_next_page": len(found) > limit, "scheduled_messages": [_wire(each) for each in found[:limit]]}
    )


@router.get("/{scheduled_message_id}", operation_id="retrieve_schedule")
async def retrieve(request: Request, agent_id: AgentId, scheduled_message_id: str) -> Response:
    store = services(request).store
    return json_response(_wire(await store.read(lambda: schedule_store.schedule_by_id(agent_id, scheduled_message_id))))


@router.get("/{scheduled_message_id}/ticks", operation_id="list_schedule_ticks")
async def ticks(
    request: Request,
    agent_id: AgentId,
    scheduled_message_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(description="due_us of the last one seen")] = None,
) -> Response:
    """What became of each moment, the latest first: fired (with its run), skipped (why), missed (how many)."""
    store = services(request).store
    await store.read(lambda: schedule_store.schedule_by_id(agent_id, scheduled_message_id))
    found = await store.scan(lambda: schedule_store.ticks_of(scheduled_message_id, before=before or 2**62, limit=limit))
    return json_response([{**msgspec.structs.asdict(tick), "due_at": iso(tick.due_us)} for tick in found])


@router.delete("/{scheduled_message_id}", operation_id="delete_schedule")
async def delete(request: Request, agent_id: AgentId, scheduled_message_id: str) -> Response:
    store = services(request).store
    await store.write(lambda: schedule_store.delete_schedule(agent_id, scheduled_message_id))
    return json_response({"success": True})


def _wire(schedule: Schedule) -> dict[str, Any]:
    return {
        "id": schedule.id,
        "agent_id": schedule.agent_id,
        "message": dict(_message(schedule)),
        "next_scheduled_time": iso(schedule.next_us),
        "schedule": (
            {"type": "recurring", "cron_expression": schedule.cron}
            if schedule.cron is not None
            else {"type": "one-time", "scheduled_at": schedule.shown.get("scheduled_at")}
        ),
        "catch_up": schedule.catch_up,
    }


def _message(schedule: Schedule) -> Iterator[tuple[str, Any]]:
    for key in ("messages", "max_steps", "callback_url", "include_return_message_types"):
        if key in schedule.shown:
            yield key, schedule.shown[key]
