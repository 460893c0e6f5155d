"""Times as the model reads and writes them, in the agent's timezone. Inside they are microseconds since the epoch."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from perdure.core.errors import ToolError
from perdure.core.timezones import UnknownTimeZone, time_zone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def zone(name: str) -> tzinfo:
    """The timezone of that name; UTC for one this machine does not know."""
    try:
        return time_zone(name)
    except UnknownTimeZone:
        return UTC


def local(us: int, timezone: str) -> datetime:
    return (_EPOCH + timedelta(microseconds=us)).astimezone(zone(timezone))


def spelt(us: int, timezone: str) -> str:
    return local(us, timezone).strftime("%Y-%m-%d %I:%M:%S %p %Z%z")


def iso(us: int, timezone: str) -> str:
    """ISO 8601 in whole seconds."""
    return local(us, timezone).isoformat(timespec="seconds")


def start_us(text: str | None, argument: str, timezone: str) -> int | None:
    """The first microsecond meant by an ISO date or time; without an offset it is in `timezone`. Else ToolError."""
    return None if not text else _us(_parsed(text, argument, timezone, time.min))


def end_us(text: str | None, argument: str, timezone: str) -> int | None:
    """The last microsecond meant: a bare date means the end of that day."""
    return None if not text else _us(_parsed(text, argument, timezone, time.max))


def _parsed(text: str, argument: str, timezone: str, bare: time) -> datetime:
    text = text.strip()
    try:
        at = _bare_date(text, bare) or datetime.fromisoformat(text)
    except ValueError:
        raise ToolError(
            f"{argument} is {text!r}; write a date like 2026-03-31 or a time like 2026-03-31T14:00:00."
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=zone(timezone))


def _bare_date(text: str, at: time) -> datetime | None:
    try:
        return datetime.combine(date.fromisoformat(text), at)
    except ValueError:
        return None


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
