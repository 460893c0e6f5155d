"""Archival memory: an agent's passages, listed by time and searched by words (SQLite's FTS5, ranked by BM25)."""

import re

from msgspec import Struct

from perdure.core.errors import NotFound
from perdure.store.base import Built, Query, Tx
from perdure.store.codec import Passage, passage_from_row, passage_params
from perdure.store.listing import Filters, Page, Source, contains, list_rows

_COLUMNS = "p.id, p.agent_id, p.created_us, p.text, p.body"
_PASSAGES = Source(_COLUMNS, "passages", "p")
_WORD = re.compile(r"\w+")


class PassageSearch(Struct, frozen=True, kw_only=True):
    """`query` None: no words asked for, newest first. `agent_id` None: everybody's. Dates are microseconds, inclusive."""

    query: str | None = None
    agent_id: str | None = None
    tags: tuple[str, ...] = ()
    match_all_tags: bool = False
    from_us: int | None = None
    to_us: int | None = None
    limit: int = 50


def insert_passage(passage: Passage) -> Tx[None]:
    yield Query("insert_passage", passage_params(passage))


def delete_passage(agent_id: str, passage_id: str) -> Tx[None]:
    if not (yield Query("delete_passage", {"id": passage_id, "agent_id": agent_id})):
        raise NotFound(f"Memory {passage_id} not found in the archive of agent {agent_id}")


def list_passages(agent_id: str, page: Page, *, search: str | None = None) -> Tx[list[Passage]]:
    """`search`: only passages that contain this text."""
    filters = Filters()
    filters.add("p.agent_id = :agent_id", agent_id=agent_id)
    if search:
        filters.add("LOWER(p.text) LIKE LOWER(:pattern) ESCAPE '!'", pattern=contains(search))
    rows = yield from list_rows(_PASSAGES, filters, page, what="Memory")
    return [passage_from_row(row) for row in rows]


def search_passages(wanted: PassageSearch) -> Tx[list[tuple[Passage, float]]]:
    """(passage, score), best first. Any of the query's words counts, rarer ones more; 0.0 where no words were asked for."""
    filters = Filters()
    if wanted.agent_id is not None:
        filters.add("p.agent_id = :agent_id", agent_id=wanted.agent_id)
    if wanted.from_us is not None:
        filters.add("p.created_us >= :from_us", from_us=wanted.from_us)
    if wanted.to_us is not None:
        filters.add("p.created_us <= :to_us", to_us=wanted.to_us)
    words = match_expression(wanted.query) if wanted.query is not None else None
    if wanted.query is not None and words is None:
        return []
    if words is None:
        source, score, order = "passages p", "0.0", "p.created_us DESC, p.id DESC"
    else:
        source = "passages_fts f JOIN passages p ON p.pos = f.rowid"
        score, order = "-bm25(passages_fts)", "bm25(passages_fts), p.created_us DESC"
        filters.add("passages_fts MATCH :words", words=words)
    where = " AND ".join(filters.conditions) or "1 = 1"
    sql = f"SELECT {_COLUMNS}, {score} FROM {source} WHERE {where} ORDER BY {order}"
    params = dict(filters.params)
    if not wanted.tags:
        sql += " LIMIT :limit"
        params["limit"] = wanted.limit
    rows = yield Built(sql, params)
    found = [(passage_from_row(row), row[5]) for row in rows]
    return [item for item in found if _tagged(item[0], wanted)][: wanted.limit]


def _tagged(passage: Passage, wanted: PassageSearch) -> bool:
    tags = set(wanted.tags)
    if not tags:
        return True
    return tags <= set(passage.tags) if wanted.match_all_tags else not tags.isdisjoint(passage.tags)


def match_expression(query: str) -> str | None:
    """An FTS5 expression for any of the query's words, each quoted, so that no operator gets through; None without words."""
    words = _WORD.findall(query)
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(words)) if words else None


def count_passages(agent_id: str) -> Tx[int]:
    rows = yield Query("count_passages", {"agent_id": agent_id})
    return rows[0][0]
