"""The named queries of `queries/*.sql`, read once.

A query begins with a line `-- name: some_name` and ends before the next. Where the two databases must differ, a line
`-- sqlite:` or `-- postgres:` begins the variant for that one; a query with one variant is only that database's.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_PARAMETER = re.compile(r"'(?:[^']|'')*'|::\w+|:(\w+)")
_VALUES = re.compile(r"\bVALUES\s*(\([^()]*\))\s*(?:ON CONFLICT|$)")
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


_Numbers = dict[tuple[int, int, str], int]  # of a write or read, its row and a name there: which parameter that is


class Part(NamedTuple):
    """A write as part of a statement: of so many `rows`, undoing the whole where it is `needed` and writes none."""

    name: str
    rows: int = 1
    needed: bool = False


class Combined(NamedTuple):
    """Several writes as one statement; `names`: of each parameter, which write's it is, of which row, and its name."""

    sql: str
    names: tuple[tuple[int, int, str], ...]


def combined(parts: Sequence[Part], texts: Mapping[str, str]) -> Combined:
    """Writes of different tables, as PostgreSQL does them in one statement. They see what was there before all of them.

    Where a needed one writes nothing, the statement divides by zero. ValueError for several rows of what has no VALUES.
    """
    numbers: _Numbers = {}
    written: list[str] = []
    for at, part in enumerate(parts):
        text = texts[part.name]
        if part.rows == 1:
            written.append(_numbered(text, numbers, at))
            continue
        if (values := _VALUES.search(text)) is None:
            raise ValueError(f"{part.name} cannot write several rows at once: it has no VALUES")
        rows = [_numbered(values[1], numbers, at, row) for row in range(part.rows)]
        written.append(text[: values.start(1)] + ", ".join(rows) + text[values.end(1) :])
    needed = [at for at, part in enumerate(parts) if part.needed]
    last = "SELECT " + ", ".join(f"1 / (SELECT COUNT(*) FROM w{at})" for at in needed) if needed else written.pop()
    first = ", ".join(f"w{at} AS ({part})" for at, part in enumerate(written))
    return Combined(f"WITH {first} {last}" if first else last, tuple(numbers))


@lru_cache(500)
def side_by_side(texts: tuple[str, ...]) -> Combined:
    """Reads as one statement: one row, of an array of records for each of them (NULL for none)."""
    numbers: _Numbers = {}
    parts = [
        f"(SELECT ARRAY_AGG(its_row) FROM ({_numbered(text, numbers, at)}) its_row)" for at, text in enumerate(texts)
    ]
    return Combined("SELECT " + ", ".join(parts), tuple(numbers))


def _numbered(text: str, numbers: _Numbers, at: int, row: int = 0) -> str:
    """`text` with its parameters numbered among those of the whole statement."""

    def number(match: re.Match[str]) -> str:
        name = match[1]
        return match[0] if name is None else f"${numbers.setdefault((at, row, name), len(numbers) + 1)}"

    return _PARAMETER.sub(number, text)


def _variant(text: str, dialect: str) -> str | None:
    parts = _VARIANT.split(text)
    if len(parts) == 1:
        return text.strip().rstrip(";")
    variants = dict(zip(parts[1::2], parts[2::2], strict=True))
    variant = variants.get(dialect)
    return variant.strip().rstrip(";") if variant is not None else None
