"""Listings one page at a time: filters and a keyset cursor, put together from fixed SQL fragments.

A row's place is (order column, id), so equal times cannot repeat or lose a row. `after` and `before` follow the order of
the listing: with descending order, `after` means older. A page before a cursor is the one that ends right at it.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from perdure.core.errors import NotFound
from perdure.store.base import Built, Row, Tx


class Page(Struct, frozen=True, kw_only=True):
    """Which part of a listing. `limit` None: all of it."""

    before: str | None = None
    after: str | None = None
    limit: int | None = 50
    descending: bool = True
    order_by: str = "created_us"


class Filters:
    """WHERE conditions of one listing. Conditions are fixed text; values travel as parameters only."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.params: dict[str, Any] = {}

    def add(self, condition: str, **params: Any) -> None:
        self.conditions.append(condition)
        self.params.update(params)

    def add_in(self, column: str, name: str, values: Sequence[Any], *, negated: bool = False) -> None:
        """`column` IN `values`; an empty list matches nothing (or everything, negated)."""
        if not values:
            self.conditions.append("1 = 1" if negated else "1 = 0")
            return
        marks, params = in_list(name, values)
        self.add(f"{column} {'NOT IN' if negated else 'IN'} ({marks})", **params)


def in_list(name: str, values: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """Placeholders and parameters of an IN list: (":id0, :id1", {"id0": ..., "id1": ...})."""
    params = {f"{name}{at}": value for at, value in enumerate(values)}
    return ", ".join(f":{key}" for key in params), params


def contains(text: str) -> str:
    """A LIKE pattern for rows that contain `text` literally (to be used with ESCAPE '!')."""
    escaped = text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{escaped}%"


class Source(Struct, frozen=True):
    """What a listing reads: `columns` FROM `table` `alias` `joins`. The table has `id` and the columns ordered by."""

    columns: str
    table: str
    alias: str
    joins: str = ""


_NULLABLE = frozenset({"last_run_completed_us", "last_message_us", "last_run_us"})


def list_rows(source: Source, filters: Filters, page: Page, *, what: str) -> Tx[list[Row]]:
    """The rows of one page in display order. NotFound for a cursor that is no `what`."""
    alias = source.alias
    place = f"COALESCE({alias}.{page.order_by}, 0)" if page.order_by in _NULLABLE else f"{alias}.{page.order_by}"
    conditions = list(filters.conditions)
    params = dict(filters.params)
    for name, cursor in (("after", page.after), ("before", page.before)):
        if cursor is None:
            continue
        rows = yield Built(f"SELECT {place} FROM {source.table} {alias} WHERE {alias}.id = :id", {"id": cursor})
        if not rows:
            raise NotFound(f"{what} {cursor} not found: it cannot be the `{name}` of a listing")
        sign = "<" if page.descending == (name == "after") else ">"
        conditions.append(f"({place}, {alias}.id) {sign} (:{name}_place, :{name}_id)")
        params |= {f"{name}_place": rows[0][0], f"{name}_id": cursor}
    backwards = page.before is not None and page.after is None
    direction = "DESC" if page.descending != backwards else "ASC"
    sql = (
        f"SELECT {source.columns} FROM {source.table} {alias} {source.joins} WHERE {' AND '.join(conditions) or '1 = 1'} "
        f"ORDER BY {place} {direction}, {alias}.id {direction}"
    )
    if page.limit is not None:
        sql += " LIMIT :page_limit"
        params["page_limit"] = page.limit
    rows = yield Built(sql, params)
    return rows[::-1] if backwards else rows
