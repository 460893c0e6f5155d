"""Searching what was said: words and vectors over messages, fused by rank as for passages.

Neither index is kept on the way of a message: both are brought up to date when someone searches.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.core.messages import Message
from perdure.store.base import Built, Many, Query, Tx
from perdure.store.full_text import by_words
from perdure.store.listing import Filters
from perdure.store.passage_search import EVERY, VectorQuery, fuse, looked_at, nearest
from perdure.store.sign_index import Vectors

_decode = msgspec.json.Decoder(Message).decode
READ_AT_ONCE = 200
NEAREST_LOOKED_AT = 4  # some of them are sifted out
NOT_SAID = frozenset({"system", "tool", "approval"})


class MessageSearch(Struct, frozen=True, kw_only=True):
    """None: not limited by. Without a query the newest. No roles: any. Dates are microseconds, inclusive."""

    query: str | None = None
    agent_id: str | None = None
    conversation_id: str | None = None
    roles: tuple[str, ...] = ()
    from_us: int | None = None
    to_us: int | None = None
    limit: int = 50


class FoundMessage(Struct, frozen=True):
    """A message found. `score`: higher is better, 0.0 where nothing was asked for. Ranks as in `passage_search.Found`."""

    message: Message
    score: float = 0.0
    words_rank: int | None = None
    vector_rank: int | None = None


def searchable_text(message: Message) -> str:
    """What a search looks at: what was said, not the tools' traffic."""
    return "" if message.role in NOT_SAID else message.said


def index_new_messages(limit: int = 2000) -> Tx[bool]:
    """Bring the full-text index up to date; True if there is more to do."""
    rows = yield Query("unindexed_messages", {"limit": limit})
    if not rows:
        return False
    said = [(pos, _decode(body)) for pos, body in rows]
    yield Many(
        "index_message",
        [{"pos": pos, "agent_id": message.agent_id, "text": searchable_text(message)} for pos, message in said],
    )
    yield Query("set_indexed", {"pos": rows[-1][0]})
    return len(rows) == limit


def search_messages(
    wanted: MessageSearch, vectors: Vectors | None = None, query: VectorQuery | None = None, *, words: bool = True
) -> Tx[list[FoundMessage]]:
    """The best first; without a query the newest. Never system messages, tools' traffic or searches themselves.

    `query`: what is looked for in `vectors`; `words` false leaves the words out.
    """
    if wanted.query is None:
        return (yield from _newest(wanted))
    agent_ids = None if wanted.agent_id is None else [wanted.agent_id]
    worded: list[int] = []
    if words:
        found = yield from by_words("messages", wanted.query, agent_ids, EVERY)
        worded = yield from _sift(wanted, found)
    near: list[int] = []
    if vectors is not None and query is not None:
        found = yield from nearest(vectors, query, NEAREST_LOOKED_AT * looked_at(wanted.limit))
        near = yield from _sift(wanted, found)
    return (yield from _fused(wanted, worded, near))


def _fused(wanted: MessageSearch, worded: Sequence[int], by_vector: Sequence[int]) -> Tx[list[FoundMessage]]:
    best = fuse([worded, by_vector])[: wanted.limit]
    messages = yield from _messages_at([pos for pos, _ in best], wanted)
    words_rank = {pos: rank for rank, pos in enumerate(worded, 1)}
    vector_rank = {pos: rank for rank, pos in enumerate(by_vector, 1)}
    return [FoundMessage(messages[pos], score, words_rank.get(pos), vector_rank.get(pos)) for pos, score in best]


def _of(wanted: MessageSearch) -> Filters:
    """Whose messages: of a conversation also those it shares with where it came from, never those of deleted ones."""
    filters = Filters()
    filters.add("conversation_id NOT IN (SELECT id FROM conversations WHERE deleted_us IS NOT NULL)")
    if wanted.agent_id is not None:
        filters.add("agent_id = :agent_id", agent_id=wanted.agent_id)
    if wanted.conversation_id is not None:
        filters.add(
            "(conversation_id = :conversation_id OR id IN "
            "(SELECT s.message_id FROM shared_messages s WHERE s.conversation_id = :conversation_id))",
            conversation_id=wanted.conversation_id,
        )
    return filters


def _sift(wanted: MessageSearch, positions: Sequence[int]) -> Tx[list[int]]:
    """Of these positions the first that may be found, in their order, as many as are looked at."""
    kept: list[int] = []
    enough = looked_at(wanted.limit)
    for start in range(0, len(positions), READ_AT_ONCE):
        some = positions[start : start + READ_AT_ONCE]
        messages = yield from _messages_at(some, wanted)
        kept += [pos for pos in some if pos in messages and _wanted(messages[pos], wanted)]
        if len(kept) >= enough:
            break
    return kept[:enough]


def _messages_at(positions: Sequence[int], wanted: MessageSearch) -> Tx[dict[int, Message]]:
    if not positions:
        return {}
    filters = _of(wanted)
    filters.add_in("pos", "pos", positions)
    rows = yield Built(f"SELECT pos, body FROM messages WHERE {' AND '.join(filters.conditions)}", filters.params)
    return {pos: _decode(body) for pos, body in rows}


def _newest(wanted: MessageSearch) -> Tx[list[FoundMessage]]:
    filters = _of(wanted)
    found: list[FoundMessage] = []
    below = 2**62
    while len(found) < wanted.limit:
        where = " AND ".join([*filters.conditions, "pos < :below"])
        sql = f"SELECT pos, body FROM messages WHERE {where} ORDER BY pos DESC LIMIT {READ_AT_ONCE}"
        rows = yield Built(sql, {**filters.params, "below": below})
        if not rows:
            break
        said = (_decode(body) for _, body in rows)
        found += [FoundMessage(message) for message in said if _wanted(message, wanted)]
        below = rows[-1][0]
    return found[: wanted.limit]


def _wanted(message: Message, wanted: MessageSearch) -> bool:
    if not searchable_text(message) or message.hidden:
        return False
    if any(call.name == "conversation_search" for call in message.tool_calls):
        return False
    return (
        (not wanted.roles or message.role in wanted.roles)
        and (wanted.from_us is None or message.created_us >= wanted.from_us)
        and (wanted.to_us is None or message.created_us <= wanted.to_us)
    )
