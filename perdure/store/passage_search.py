"""Searching passages: what the words find and what the vectors find, fused by rank.

Reciprocal-rank fusion (Cormack et al. 2009): a passage's score is the sum of 1 / (60 + its rank) over the rankings it is in,
so rankings whose own scores cannot be compared add up.
"""

from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from perdure.core.archives import Passage, Vector
from perdure.store.base import Built, Tx
from perdure.store.full_text import by_words
from perdure.store.listing import Filters, in_list
from perdure.store.passages import COLUMNS, passage_from_row
from perdure.store.sign_index import Vectors

FUSION = 60
LOOKED_AT = 50
EVERY = 1_000_000


class PassageSearch(Struct, frozen=True, kw_only=True):
    """`query` None: not asked for anything, newest first. `archive_ids` None: all. Dates are microseconds, inclusive."""

    query: str | None = None
    archive_ids: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    match_all_tags: bool = False
    from_us: int | None = None
    to_us: int | None = None
    limit: int = 50


class VectorQuery(Struct, frozen=True):
    """The query as an embedding model has it, for the scopes whose vectors are that model's.

    `least`: neighbours below this similarity are none.
    """

    scopes: tuple[str, ...]
    vector: Vector
    least: float = -1.0


class Found(Struct, frozen=True):
    """A passage found. `score`: higher is better. Ranks begin at 1; None where that way did not find it."""

    passage: Passage
    score: float
    words_rank: int | None = None
    vector_rank: int | None = None


def search_passages(
    wanted: PassageSearch, vectors: Vectors | None = None, queries: Sequence[VectorQuery] = ()
) -> Tx[list[Found]]:
    """The best first; without a query the newest. `queries`: what is looked for in `vectors`, besides the words."""
    if wanted.archive_ids == ():
        return []
    if wanted.query is None:
        return (yield from _newest(wanted))
    among = yield from _among(wanted)
    enough = looked_at(wanted.limit)
    worded = yield from by_words("passages", wanted.query, wanted.archive_ids, enough if among is None else EVERY)
    if among is not None:
        worded = [pos for pos in worded if pos in among][:enough]
    near: list[list[int]] = []
    if vectors is not None:
        for query in queries:
            near.append((yield from nearest(vectors, query, enough, among)))
    return (yield from _fused(wanted, worded, near))


def nearest(vectors: Vectors, query: VectorQuery, limit: int, among: Collection[int] | None = None) -> Tx[list[int]]:
    """Positions, nearest first."""
    found = yield from vectors.nearest(query.scopes, query.vector, limit, among)
    return [each.pos for each in found if each.similarity >= query.least]


def looked_at(limit: int) -> int:
    """How many of each ranking are fused: more than are wanted, as the fusion changes their order."""
    return max(LOOKED_AT, 2 * limit)


def fuse(rankings: Iterable[Sequence[int]]) -> list[tuple[int, float]]:
    """(position, score), best first; equal scores in the order of the rankings."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, pos in enumerate(ranking, 1):
            scores[pos] = scores.get(pos, 0.0) + 1 / (FUSION + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


def _fused(wanted: PassageSearch, worded: Sequence[int], by_vector: Sequence[Sequence[int]]) -> Tx[list[Found]]:
    best = fuse([worded, *by_vector])[: wanted.limit]
    rows = yield from _passages_at([pos for pos, _ in best])
    words_rank = {pos: rank for rank, pos in enumerate(worded, 1)}
    vector_rank = {pos: rank for ranking in by_vector for rank, pos in enumerate(ranking, 1)}
    return [Found(rows[pos], score, words_rank.get(pos), vector_rank.get(pos)) for pos, score in best if pos in rows]


def _passages_at(positions: Sequence[int]) -> Tx[dict[int, Passage]]:
    if not positions:
        return {}
    marks, params = in_list("pos", positions)
    rows = yield Built(f"SELECT {COLUMNS}, p.pos FROM passages p WHERE p.pos IN ({marks})", params)
    return {row[6]: passage_from_row(row) for row in rows}


def _among(wanted: PassageSearch) -> Tx[set[int] | None]:
    """Where the passages are that tags and dates allow; None: all are."""
    if not wanted.tags and wanted.from_us is None and wanted.to_us is None:
        return None
    if wanted.from_us is None and wanted.to_us is None:
        sql, params = _tagged(wanted)
        rows = yield Built(sql, params)
    else:
        filters = _allowed(wanted)
        rows = yield Built(f"SELECT p.pos FROM passages p WHERE {' AND '.join(filters.conditions)}", filters.params)
    return {row[0] for row in rows}


def _tagged(wanted: PassageSearch) -> tuple[str, dict[str, object]]:
    tags = tuple(dict.fromkeys(wanted.tags))
    filters = Filters()
    filters.add_in("t.tag", "tag", tags)
    if wanted.archive_ids is not None:
        filters.add_in("t.archive_id", "tag_archive", wanted.archive_ids)
    sql = f"SELECT t.pos FROM passage_tags t WHERE {' AND '.join(filters.conditions)}"
    if wanted.match_all_tags and len(tags) > 1:
        sql += f" GROUP BY t.pos HAVING COUNT(*) = {len(tags)}"
    return sql, filters.params


def _allowed(wanted: PassageSearch) -> Filters:
    filters = Filters()
    if wanted.archive_ids is not None:
        filters.add_in("p.archive_id", "archive", wanted.archive_ids)
    if wanted.from_us is not None:
        filters.add("p.created_us >= :from_us", from_us=wanted.from_us)
    if wanted.to_us is not None:
        filters.add("p.created_us <= :to_us", to_us=wanted.to_us)
    if wanted.tags:
        tagged, params = _tagged(wanted)
        filters.add(f"p.pos IN ({tagged})", **params)
    return filters


def _newest(wanted: PassageSearch) -> Tx[list[Found]]:
    filters = _allowed(wanted)
    where = " AND ".join(filters.conditions) or "1 = 1"
    rows = yield Built(
        f"SELECT {COLUMNS} FROM passages p WHERE {where} ORDER BY p.created_us DESC, p.id DESC LIMIT :limit",
        {**filters.params, "limit": wanted.limit},
    )
    return [Found(passage_from_row(row), 0.0) for row in rows]
