"""The named queries of `queries/*.sql`, read once.

A query begins with a line `-- name: some_name` and ends before the next. Where the two databases must differ, a line
`-- sqlite:` or `-- postgres:` begins the variant for that one; a query with one variant is only that database's.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_PARAMETER = re.compile(r"'(?:[^']|'')*'|::\w+|:(\w+)")
_VARIANT = re.compile(r"^-- (sqlite|postgres):\s*$", re.MULTILINE)


@cache
def queries(dialect: str) -> dict[str, str]:
    """All queries for "sqlite" or "postgres" by name. ValueError for a name used twice."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for file in sorted(resources.files("perdure.store").joinpath("queries").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in seen:
                raise ValueError(f"query {name} is defined twice ({file.name})")
            seen.add(name)
            if (variant := _variant(text, dialect)) is not None:
                found[name] = variant
    return found


class Positional(NamedTuple):
    """A statement with `$1`, `$2` ... for its parameters, whose names are in that order."""

    sql: str
    names: tuple[str, ...]


@cache
def positional(sql: str) -> Positional:
    """`sql` with its `:name` parameters numbered, as PostgreSQL takes them. Strings and `::` casts are left alone."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0]
        return f"${names.setdefault(name, len(names) + 1)}"

    return Positional(_PARAMETER.sub(number, sql), tuple(names))


class Combined(NamedTuple):
    """Several writes as one statement; `names`: each parameter's name, and whose it is."""

    sql: str
    names: tuple[tuple[int, str], ...]


def combined(texts: Sequence[str]) -> Combined:
    """Writes of different rows, as PostgreSQL does them in one statement. They see what was there before all of them."""
    numbers: dict[tuple[int, str], int] = {}
    parts: list[str] = []
    for at, text in enumerate(texts):

        def number(match: re.Match[str], at: int = at) -> str:
            name = match[1]
            return match[0] if name is None else f"${numbers.setdefault((at, name), len(numbers) + 1)}"

        parts.append(_PARAMETER.sub(number, text))
    first = ", ".join(f"w{at} AS ({part})" for at, part in enumerate(parts[:-1]))
    return Combined(f"WITH {first} {parts[-1]}" if first else parts[-1], tuple(numbers))


def _variant(text: str, dialect: str) -> str | None:
    parts = _VARIANT.split(text)
    if len(parts) == 1:
        return text.strip().rstrip(";")
    variants = dict(zip(parts[1::2], parts[2::2], strict=True))
    variant = variants.get(dialect)
    return variant.strip().rstrip(";") if variant is not None else None
