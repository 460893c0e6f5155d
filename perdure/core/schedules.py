"""Messages that are sent by the clock."""

from typing import Any, Literal

from msgspec import Struct

from perdure.core.messages import Message
from perdure.core.runs import RunConfig

CatchUp = Literal["one", "all", "none"]
TickStatus = Literal["firing", "fired", "skipped", "missed"]


class Schedule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times are microseconds since the epoch. `cron`: five fields in the agent's `timezone`; None: once, at `next_us`.

    `catch_up`: what becomes of ticks that were due while no server ran: the latest one fires, all do, or none. `inputs`: what is
    said, without ids. `shown`: the request as it came, for listings.
    """

    id: str
    agent_id: str
    created_us: int
    next_us: int | None
    inputs: tuple[Message, ...]
    config: RunConfig
    cron: str | None = None
    timezone: str = "UTC"
    catch_up: CatchUp = "one"
    shown: dict[str, Any] = {}


class Tick(Struct, frozen=True, kw_only=True):
    """What became of one moment of a schedule, or of `count` moments up to it that nobody was there for."""

    schedule_id: str
    due_us: int
    status: TickStatus
    count: int = 1
    run_id: str | None = None
    reason: str | None = None
    at_us: int = 0
