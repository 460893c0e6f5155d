"""Stored messages: written once, read by position.

`pos` grows with every insert, so within a conversation (one writer at a time) it is the order of what was said.
"""

import msgspec

from perdure.core.messages import Message
from perdure.store.base import Many, Query, Tx

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


def message_params(message: Message) -> dict[str, object]:
    return {
        "id": message.id,
        "agent_id": message.agent_id,
        "conversation_id": message.conversation_id,
        "run_id": message.run_id,
        "body": _encode(message),
    }


def insert_messages(messages: tuple[Message, ...]) -> Tx[None]:
    if len(messages) == 1:
        yield Query("insert_message", message_params(messages[0]), later=True)
    elif messages:
        yield Many("insert_message", [message_params(message) for message in messages], later=True)


def rewrite_message(message: Message) -> Tx[None]:
    """Replace a message's body in place (the compiled system message is the only one this happens to)."""
    yield Query("update_message_body", {"id": message.id, "body": _encode(message)}, later=True)


def message_by_id(message_id: str) -> Tx[tuple[int, Message] | None]:
    rows = yield Query("message_by_id", {"id": message_id})
    return (rows[0][0], _decode(rows[0][1])) if rows else None


def messages_of_run(run_id: str) -> Tx[list[Message]]:
    rows = yield Query("messages_of_run", {"run_id": run_id})
    return [_decode(body) for _, body in rows]


def context_messages(conversation_id: str, head_ids: tuple[str, ...], tail_from: int) -> Tx[list[Message]]:
    """The context in order: the head by id, then the conversation's own messages from `tail_from` on. What the model was asked
    for again after it broke off is in the history only."""
    context: list[Message] = []
    for message_id in head_ids:
        rows = yield Query("message_by_id", {"id": message_id})
        if rows:
            context.append(_decode(rows[0][1]))
    rows = yield Query("messages_tail", {"conversation_id": conversation_id, "from_pos": tail_from})
    context.extend(_decode(body) for _, body in rows)
    return [message for message in context if message.interrupted != "retried"]


def next_position() -> Tx[int]:
    """A position no message has yet; what is inserted from now on lies at or after it."""
    rows = yield Query("last_pos")
    return int(rows[0][0]) + 1


def count_messages(conversation_id: str) -> Tx[int]:
    rows = yield Query("count_messages", {"conversation_id": conversation_id})
    return rows[0][0]
