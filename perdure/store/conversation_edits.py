"""Changing and deleting conversations, and the messages a fork shares with the one it came from."""

from collections.abc import Sequence

import msgspec

from perdure.core.conversations import Conversation
from perdure.store.base import Many, Query, Tx
from perdure.store.conversations import missing
from perdure.store.private_blocks import delete_private_blocks

_json = msgspec.json.Encoder().encode


def change_conversation(conversation: Conversation) -> Tx[None]:
    """Write what people can change of it."""
    rows = yield Query(
        "change_conversation",
        {
            "id": conversation.id,
            "summary": conversation.summary,
            "hidden": int(conversation.hidden),
            "archived_us": conversation.archived_us,
            "last_message_us": conversation.last_message_us,
            "updated_us": conversation.updated_us,
            "body": _json(conversation.settings),
        },
    )
    if not rows:
        raise missing(conversation.id)


def delete_conversation(conversation_id: str, now: int) -> Tx[None]:
    """Nobody finds it any more. What was said in it stays on record, and stays in its forks; its own blocks go."""
    if not (yield Query("delete_conversation", {"id": conversation_id, "now": now})):
        raise missing(conversation_id)
    yield from delete_private_blocks(conversation_id)


def share_messages(conversation_id: str, system_id: str, shared: Sequence[tuple[int, str]]) -> Tx[None]:
    """`shared`: (position, message id) of what was said elsewhere and is shown here too, after the system message."""
    if not shared:
        return
    first = min(position for position, _ in shared) - 1
    yield Many(
        "share_message",
        [
            {"conversation_id": conversation_id, "pos": position, "message_id": message_id}
            for position, message_id in ((first, system_id), *shared)
        ],
    )
