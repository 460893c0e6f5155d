"""Listings of messages. Cursors are chronological whatever the order: `after` is strictly newer, `before` strictly older."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.core.errors import NotFound
from perdure.core.messages import Message
from perdure.store.base import Built, Query, Tx
from perdure.store.listing import in_list

_decode = msgspec.json.Decoder(Message).decode

# a fork's messages: those it shares with where it came from, at their place in its own order, then what was said in it
_OF_A_FORK = """(
    SELECT m.pos, m.body, m.agent_id, m.run_id FROM messages m WHERE m.conversation_id = :conversation_id
       AND NOT EXISTS (SELECT 1 FROM shared_messages s WHERE s.conversation_id = :conversation_id AND s.message_id = m.id)
    UNION ALL
    SELECT s.pos, m.body, m.agent_id, m.run_id FROM shared_messages s JOIN messages m ON m.id = s.message_id
     WHERE s.conversation_id = :conversation_id) said"""
_NOT_OF_DELETED = "conversation_id NOT IN (SELECT id FROM conversations WHERE deleted_us IS NOT NULL)"


def list_messages(
    *,
    agent_id: str | None = None,
    conversation_id: str | None = None,
    run_id: str | None = None,
    before: str | None = None,
    after: str | None = None,
    limit: int | None = 100,
    newest: bool = True,
    strict_cursor: bool = True,
) -> Tx[list[Message]]:
    """A page, oldest first. `newest`: the last `limit` messages of the range, else the first.

    Of a conversation: with what it shares. Without one, what was said in deleted conversations is left out. NotFound for
    an unknown cursor, unless `strict_cursor` is off (then it is ignored).
    """
    where: list[str] = []
    params: dict[str, Any] = {}
    forked = False
    if conversation_id is not None:
        forked = bool((yield Query("shows_shared", {"conversation_id": conversation_id})))
        params["conversation_id"] = conversation_id
        if not forked:
            where.append("conversation_id = :conversation_id")
    elif run_id is None:
        where.append(_NOT_OF_DELETED)
    for column, value in (("agent_id", agent_id), ("run_id", run_id)):
        if value is not None:
            where.append(f"{column} = :{column}")
            params[column] = value
    for name, cursor, comparison in (("before", before, "<"), ("after", after, ">")):
        if cursor is None:
            continue
        position = yield from _position(cursor, conversation_id if forked else None)
        if position is not None:
            where.append(f"pos {comparison} :{name}")
            params[name] = position
        elif strict_cursor:
            raise NotFound(f"Message {cursor} (given as `{name}`) not found")
    sql = f"SELECT pos, body FROM {_OF_A_FORK if forked else 'messages'}"
    if where:
        sql += " WHERE " + " AND ".join(where)
    sql += " ORDER BY pos " + ("DESC" if newest else "ASC")
    if limit is not None:
        sql += " LIMIT :limit"
        params["limit"] = limit
    rows = yield Built(sql, params)
    messages = [_decode(body) for _, body in rows]
    return messages[::-1] if newest else messages


def _position(message_id: str, forked_id: str | None) -> Tx[int | None]:
    """Where a message stands: in the order of the fork `forked_id` where it shares it, else in that of all messages."""
    if forked_id is not None:
        rows = yield Query("shared_position", {"conversation_id": forked_id, "message_id": message_id})
        if rows:
            return rows[0][0]
    rows = yield Query("message_by_id", {"id": message_id})
    return rows[0][0] if rows else None


class Placed(NamedTuple):
    """A message and where it stands in its conversation's order."""

    position: int
    message: Message


def history_of(conversation_id: str) -> Tx[list[Placed]]:
    """All that a conversation shows, oldest first, also what has left its context."""
    forked = yield Query("shows_shared", {"conversation_id": conversation_id})
    source = _OF_A_FORK if forked else "messages WHERE conversation_id = :conversation_id"
    rows = yield Built(f"SELECT pos, body FROM {source} ORDER BY pos", {"conversation_id": conversation_id})
    return [Placed(pos, _decode(body)) for pos, body in rows]


def placed_messages(conversation_id: str, ids: Sequence[str]) -> Tx[list[Placed]]:
    """These messages in this order, with their positions in the conversation; those that are gone are left out."""
    found: dict[str, Placed] = {}
    for at in range(0, len(ids), 500):
        marks, params = in_list("id", ids[at : at + 500])
        rows = yield Built(
            "SELECT m.id, COALESCE(s.pos, m.pos), m.body FROM messages m LEFT JOIN shared_messages s "
            f"ON s.message_id = m.id AND s.conversation_id = :conversation_id WHERE m.id IN ({marks})",
            params | {"conversation_id": conversation_id},
        )
        found.update((row[0], Placed(row[1], _decode(row[2]))) for row in rows)
    return [found[message_id] for message_id in ids if message_id in found]


def delete_messages(conversation_id: str, *, but: str) -> Tx[None]:
    """Forget what was said in a conversation, all but one message (its compiled system message).

    What its forks share is theirs from then on.
    """
    which = {"conversation_id": conversation_id, "but": but}
    yield Query("adopt_shared", {"conversation_id": conversation_id})
    yield Query("unindex_messages_of_conversation", which)
    yield Query("forget_message_vectors", which)
    yield Query("delete_messages", which)
    yield Query("index_from_the_end")  # positions that are free now will be used again
