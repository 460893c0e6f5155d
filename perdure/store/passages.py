"""Passages: filed in an archive, changed, listed by time. How they are searched: `passage_search.py`.

A passage, its tags, the archive's counts and what waits for a vector change in one transaction.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.core.archives import Passage
from perdure.core.errors import NotFound
from perdure.store.archives import archive_by_id, archive_for_writing, archive_ids_of_agent, count_tags
from perdure.store.base import Many, Query, Row, Tx
from perdure.store.listing import Filters, Page, Source, contains, list_rows

COLUMNS = "p.id, p.archive_id, p.created_us, p.updated_us, p.text, p.body"
_PASSAGES = Source(COLUMNS, "passages", "p")
_encode = msgspec.json.Encoder().encode


class _Body(Struct):
    tags: tuple[str, ...] = ()
    metadata: dict[str, object] = {}


_body = msgspec.json.Decoder(_Body).decode


def passage_from_row(row: Row) -> Passage:
    """`row` begins with COLUMNS."""
    body = _body(row[5])
    return Passage(
        id=row[0],
        archive_id=row[1],
        created_us=row[2],
        updated_us=row[3],
        text=row[4],
        tags=body.tags,
        metadata=body.metadata,
    )


def insert_passages(archive_id: str, passages: Sequence[Passage], now: int) -> Tx[list[Passage]]:
    """File them; answers them as they are kept. `created_us` 0: now, a
    microsecond after the one before it, so that they are listed in this order. NotFound for an archive that is gone."""
    if not (yield Query("count_into_archive", {"id": archive_id, "added": len(passages)})):
        raise NotFound(f"Archive {archive_id} not found")
    filed: list[Passage] = []
    for at, passage in enumerate(passages):
        tags = tuple(dict.fromkeys(passage.tags))
        passage = msgspec.structs.replace(
            passage, archive_id=archive_id, tags=tags, created_us=passage.created_us or now + at, updated_us=now
        )
        rows = yield Query(
            "insert_passage",
            {
                "id": passage.id,
                "archive_id": archive_id,
                "created_us": passage.created_us,
                "updated_us": now,
                "text": passage.text,
                "body": _encode(_Body(tags, passage.metadata)),
            },
        )
        filed.append(passage)
        if tags:
            pos = rows[0][0]
            yield Many("tag_passage", [{"archive_id": archive_id, "tag": tag, "pos": pos} for tag in tags])
            yield from count_tags(archive_id, tags, (), now)
    return filed


def file_for_agent(agent_id: str, passages: Sequence[Passage], now: int) -> Tx[list[Passage]]:
    """Into the archive the agent writes to, which is made if it has none."""
    archive_id = yield from archive_for_writing(agent_id, now)
    return (yield from insert_passages(archive_id, passages, now))


def passage_of_archives(passage_id: str, archive_ids: Sequence[str]) -> Tx[tuple[int, Passage]]:
    """(its position, the passage). NotFound unless it is in one of the archives."""
    rows = yield Query("passage_by_id", {"id": passage_id})
    if not rows or rows[0][1] not in archive_ids:
        raise NotFound(f"Memory {passage_id} not found")
    return rows[0][6], passage_from_row(rows[0])


def delete_passage(archive_ids: Sequence[str], passage_id: str, now: int) -> Tx[None]:
    pos, passage = yield from passage_of_archives(passage_id, archive_ids)
    at = {"scope": passage.archive_id, "pos": pos}
    yield Query("delete_vector", at)
    yield Query("delete_passage", {"pos": pos})
    for tag in passage.tags:
        yield Query("untag_passage", {"archive_id": passage.archive_id, "tag": tag, "pos": pos})
    yield Query("count_into_archive", {"id": passage.archive_id, "added": -1})
    yield from count_tags(passage.archive_id, (), passage.tags, now)


def replace_passage(pos: int, before: Passage, after: Passage, now: int) -> Tx[None]:
    """`before` is what is stored at `pos`. A new text waits for a new vector and has none until then."""
    yield Query(
        "update_passage",
        {
            "pos": pos,
            "text": after.text,
            "body": _encode(_Body(after.tags, after.metadata)),
            "updated_us": now,
        },
    )
    if before.text != after.text:
        yield Query("delete_vector", {"scope": before.archive_id, "pos": pos})
    removed = [tag for tag in before.tags if tag not in after.tags]
    added = [tag for tag in after.tags if tag not in before.tags]
    for tag in removed:
        yield Query("untag_passage", {"archive_id": before.archive_id, "tag": tag, "pos": pos})
    yield Many("tag_passage", [{"archive_id": before.archive_id, "tag": tag, "pos": pos} for tag in added])
    yield from count_tags(before.archive_id, added, removed, now)


def list_passages(archive_ids: Sequence[str], page: Page, *, search: str | None = None) -> Tx[list[Passage]]:
    """`search`: only passages that contain this text."""
    filters = Filters()
    filters.add_in("p.archive_id", "archive", archive_ids)
    if search:
        filters.add("LOWER(p.text) LIKE LOWER(:pattern) ESCAPE '!'", pattern=contains(search))
    rows = yield from list_rows(_PASSAGES, filters, page, what="Memory")
    return [passage_from_row(row) for row in rows]


def list_passages_of_agent(agent_id: str, page: Page, *, search: str | None = None) -> Tx[list[Passage]]:
    archive_ids = yield from archive_ids_of_agent(agent_id)
    return (yield from list_passages(archive_ids, page, search=search))


def list_passages_of_archive(archive_id: str, page: Page, *, search: str | None = None) -> Tx[list[Passage]]:
    yield from archive_by_id(archive_id)
    return (yield from list_passages([archive_id], page, search=search))
