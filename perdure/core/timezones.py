"""Time zones by name. Only UTC is known without a database of them: the machine's, or that of the package tzdata."""

from datetime import UTC, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from perdure.core.errors import Invalid


class UnknownTimeZone(Invalid):
    pass


def time_zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        why = "is not an IANA time zone, such as UTC or Europe/Paris"
        if not _any_known():
            why = "cannot be looked up: the server's machine has no time zone database. `pip install tzdata` there adds one"
        raise UnknownTimeZone(f"timezone: {name!r} {why}", status=422) from error


@cache
def _any_known() -> bool:
    return bool(available_timezones())
