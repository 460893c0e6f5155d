"""Tags of agents and blocks, in the order they were given."""

from collections.abc import Iterable

from perdure.store.base import Built, Many, Query, Tx
from perdure.store.listing import Filters, contains


def set_tags(kind: str, entity_id: str, tags: Iterable[str]) -> Tx[None]:
    """`kind`: "agent" or "block". Replaces all of the entity's tags."""
    yield Query("delete_tags", {"kind": kind, "entity_id": entity_id})
    yield from add_tags(kind, entity_id, tags)


def add_tags(kind: str, entity_id: str, tags: Iterable[str]) -> Tx[None]:
    """Tags of an entity that has none yet."""
    rows = [
        {"kind": kind, "entity_id": entity_id, "tag": tag, "position": at} for at, tag in enumerate(dict.fromkeys(tags))
    ]
    if rows:
        yield Many("insert_tag", rows)


def tags_of(kind: str, entity_id: str) -> Tx[tuple[str, ...]]:
    rows = yield Query("tags_of", {"kind": kind, "entity_id": entity_id})
    return tuple(row[0] for row in rows)


def filter_by_tags(filters: Filters, kind: str, column: str, tags: list[str], *, match_all: bool) -> None:
    """Keep rows whose `column` is tagged with any (or every one) of `tags`."""
    wanted = list(dict.fromkeys(tags))
    marks = Filters()
    marks.add_in("tag", "tag", wanted)
    count = f" GROUP BY entity_id HAVING COUNT(*) = {len(wanted)}" if match_all else ""
    filters.add(
        f"{column} IN (SELECT entity_id FROM tags WHERE kind = :tag_kind AND {marks.conditions[0]}{count})",
        tag_kind=kind,
        **marks.params,
    )


def list_tags(
    kind: str, *, after: str | None, before: str | None, limit: int | None, descending: bool, query_text: str | None
) -> Tx[list[str]]:
    """Distinct tags by name. The cursors are tags themselves, in the order of the listing."""
    filters = Filters()
    filters.add("kind = :kind", kind=kind)
    if query_text:
        filters.add("LOWER(tag) LIKE LOWER(:pattern) ESCAPE '!'", pattern=contains(query_text))
    if after is not None:
        filters.add(f"tag {'<' if descending else '>'} :after", after=after)
    if before is not None:
        filters.add(f"tag {'>' if descending else '<'} :before", before=before)
    backwards = before is not None and after is None
    direction = "DESC" if descending != backwards else "ASC"
    sql = f"SELECT DISTINCT tag FROM tags WHERE {' AND '.join(filters.conditions)} ORDER BY tag {direction}"
    params = dict(filters.params)
    if limit is not None:
        sql += " LIMIT :page_limit"
        params["page_limit"] = limit
    rows = yield Built(sql, params)
    found = [row[0] for row in rows]
    return found[::-1] if backwards else found
