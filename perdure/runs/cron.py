"""Cron expressions: which moments they mean on the clocks of a time zone.

Invariant: an expression means what docs/runs.md says, or is refused. cronsim, which finds the moments, would read some of them
otherwise, so it is given each field as plain numbers.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from cronsim import CronSim, CronSimError

from perdure.core.errors import Invalid
from perdure.core.timezones import time_zone


class Field(NamedTuple):
    """`names`: in the place of their number. `special`: terms of which cronsim knows better which days they are."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()
    special: str = r"(?!)"


MONTHS = ("", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31, special="LW?"),
    Field("month", 1, 12, MONTHS),
    Field("day of the week", 0, 6, DAYS, special="[0-7]L"),
)
TERM = re.compile(r"(?:\*|(?P<start>\w+)(?:-(?P<end>\w+))?)(?:/(?P<step>\d+))?", re.ASCII)
EVERY_HOUR, EVERY_DAY, EVERY_WEEKDAY = (
    ",".join(map(str, range(field.first, field.last + 1))) for field in (FIELDS[1], FIELDS[2], FIELDS[4])
)


def next_time(cron: str, timezone: str, after_us: int) -> int:
    """The first moment of a cron expression after that one. Invalid for an expression that is wrong or never comes."""
    return next(times(cron, timezone, after_us))


def times(cron: str, timezone: str, after_us: int) -> Iterator[int]:
    """Every moment after that one, in order. Invalid where there is none, or no more, within 50 years."""
    start = datetime.fromtimestamp(after_us / 1e6, time_zone(timezone))
    try:
        for moment in CronSim(_plain(cron), start):
            # cronsim forgets which of two equal times of the clock it starts from
            if (at_us := int(moment.timestamp()) * 1_000_000) > after_us:
                yield at_us
    except CronSimError:
        pass  # no month that it names has such a day
    raise Invalid(f"cron_expression: {cron!r} never comes", status=422)


def _plain(cron: str) -> str:
    """The same expression, its fields as lists of numbers."""
    given = cron.upper().split()
    if len(given) != 5:
        raise Invalid(f"cron_expression: {cron!r} has {len(given)} fields; five are needed", status=422)
    try:
        minute, hour, day, month, weekday = (
            _plain_field(text, field) for text, field in zip(given, FIELDS, strict=True)
        )
        if day != "*" and re.search("[L#]", weekday):
            raise ValueError(f"{given[4]!r} as day of the week goes with no day of the month")
    except ValueError as error:
        raise Invalid(f"cron_expression: {cron!r} is not valid: {error}", status=422) from error
    # beside a field with a step, every day by name is no more than a star; else either field is enough
    if day == EVERY_DAY and "*" in given[4]:
        day = "*"
    if weekday == EVERY_WEEKDAY and "*" in given[2]:
        weekday = "*"
    # where both are lists cronsim goes by the clock, as is wanted where hours are named, else by the time that passes
    if hour == EVERY_HOUR:
        hour = "*"
    elif minute == "*" and hour != "*":
        minute = "0-59"
    return " ".join((minute, hour, day, month, weekday))


def _plain_field(text: str, field: Field) -> str:
    terms = text.split(",")
    if "*" in terms or (text == "?" and field.name.startswith("day")):
        return "*"
    numbers: set[int] = set()
    special: list[str] = []
    for term in terms:
        if re.fullmatch(field.special, term):
            special.append(term)
        elif field.names == DAYS and re.fullmatch("L[0-7]", term):
            special.append(f"{term[1]}L")
        elif field.names == DAYS and (nth := re.fullmatch(r"(\w+)#([1-5])", term)):
            special.append(f"{_number(nth[1], field)}#{nth[2]}")
        else:
            numbers.update(_numbers(term, field))
    return ",".join((*map(str, sorted(numbers)), *special))


def _numbers(term: str, field: Field) -> list[int]:
    """What a number, a name, a range (also over the end, as SAT-MON) or a step means. ValueError for anything else."""
    found = TERM.fullmatch(term)
    if found is None:
        raise ValueError(f"{field.name} {term!r}")
    start, end, step = found.groups()
    low = _number(start, field) if start else field.first
    high = _number(end, field) if end else field.last
    by = int(step or 1)
    if by == 0:
        raise ValueError(f"{field.name} {term!r}: a step is 1 or more")
    if start and not end and not step:
        high = low
    elif (
        end and low >= high and (low - high) % (field.last + 1) == 0
    ):  # that one alone to some, the whole round to others
        raise ValueError(f"{field.name} {term!r}: a range ends at another {field.name} than it begins")
    elif low > high and by > 1:
        raise ValueError(f"{field.name} {term!r}: a range over the end of a round has no step; list what it means")
    numbers = range(low, high + 1) if low <= high else (*range(low, field.last + 1), *range(field.first, high + 1))
    return [number % (field.last + 1) for number in numbers[::by]]  # 7 is Sunday, as 0


def _number(text: str, field: Field) -> int:
    if text and text in field.names:
        return field.names.index(text)
    most = 7 if field.names == DAYS else field.last
    if not (text.isascii() and text.isdigit() and field.first <= int(text) <= most):
        raise ValueError(f"{field.name} {text!r}")
    return int(text)
