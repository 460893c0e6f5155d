"""Listings of messages. Cursors are chronological whatever the order: `after` is strictly newer, `before` strictly older."""

from typing import Any

import msgspec

from perdure.core.errors import NotFound
from perdure.core.messages import Message
from perdure.store.base import Built, Query, Tx

_decode = msgspec.json.Decoder(Message).decode


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

    NotFound for an unknown cursor, unless `strict_cursor` is off (then it is ignored).
    """
    where: list[str] = []
    params: dict[str, Any] = {}
    for column, value in (("agent_id", agent_id), ("conversation_id", conversation_id), ("run_id", run_id)):
        if value is not None:
            where.append(f"{column} = :{column}")
            params[column] = value
    for name, cursor, comparison in (("before", before, "<"), ("after", after, ">")):
        if cursor is None:
            continue
        rows = yield Query("message_by_id", {"id": cursor})
        if rows:
            where.append(f"pos {comparison} :{name}")
            params[name] = rows[0][0]
        elif strict_cursor:
            raise NotFound(f"Message {cursor} (given as `{name}`) not found")
    sql = "SELECT pos, body FROM messages"
    if where:
        sql += " WHERE " + " AND ".join(where)
    sql += " ORDER BY pos " + ("DESC" if newest else "ASC")
    if limit is not None:
        sql += " LIMIT :limit"
        params["limit"] = limit
    rows = yield Built(sql, params)
    messages = [_decode(body) for _, body in rows]
    return messages[::-1] if newest else messages


def delete_messages(conversation_id: str, *, but: str) -> Tx[None]:
    """Forget what was said in a conversation, all but one message (its compiled system message)."""
    yield Query("delete_messages", {"conversation_id": conversation_id, "but": but})


def search_messages(
    match: str | None, *, agent_id: str, start_us: int | None, end_us: int | None, limit: int
) -> Tx[list[Message]]:
    """The agent's messages that match a full-text expression, best first; newest first without one."""
    params: dict[str, Any] = {"agent_id": agent_id, "limit": limit}
    if match is None:
        sql = "SELECT pos, body FROM messages m WHERE m.agent_id = :agent_id ORDER BY pos DESC LIMIT :limit"
    else:
        sql = (
            "SELECT m.pos, m.body FROM messages_fts f JOIN messages m ON m.pos = f.rowid "
            "WHERE messages_fts MATCH :match AND m.agent_id = :agent_id ORDER BY f.rank LIMIT :limit"
        )
        params["match"] = match
    rows = yield Built(sql, params)
    found = [_decode(body) for _, body in rows]
    return [
        message
        for message in found
        if (start_us is None or message.created_us >= start_us) and (end_us is None or message.created_us <= end_us)
    ]
