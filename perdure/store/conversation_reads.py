"""Conversations as people see them: one, or a page of a listing. An agent's own history is in no listing."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.core.archives import Filed
from perdure.core.conversations import Conversation, ConversationSettings
from perdure.store.archives import filed_by
from perdure.store.base import Built, Query, Row, Tx, together
from perdure.store.conversations import missing
from perdure.store.listing import Filters, Page, Source, contains, in_list, list_rows
from perdure.store.messages import count_messages

_ids = msgspec.json.Decoder(tuple[str, ...]).decode
_settings = msgspec.json.Decoder(ConversationSettings).decode

_COLUMNS = (
    "c.id, c.agent_id, c.created_us, c.updated_us, c.last_message_us, c.last_run_us, c.summary, c.hidden, c.archived_us, "
    "c.body"
)
_CONVERSATIONS = Source(_COLUMNS, "conversations", "c")


class ConversationView(Struct, frozen=True, kw_only=True):
    """A conversation with the ids of what is in its context and of the blocks that are its own."""

    conversation: Conversation
    message_ids: tuple[str, ...] = ()
    private_block_ids: tuple[str, ...] = ()


class ConversationFilter(Struct, frozen=True, kw_only=True):
    """None: not filtered by. `summary_search`: text that the summary contains, in upper or lower case."""

    agent_id: str | None = None
    archived: bool | None = None
    summary_search: str | None = None
    with_hidden: bool = False


def conversation_by_id(conversation_id: str) -> Tx[Conversation]:
    rows = yield Query("conversation_by_id", {"id": conversation_id})
    if not rows:
        raise missing(conversation_id)
    return _conversation(rows[0])


def conversation_view(conversation_id: str) -> Tx[ConversationView]:
    conversation = yield from conversation_by_id(conversation_id)
    return (yield from _views([conversation]))[0]


def list_conversations(wanted: ConversationFilter, page: Page) -> Tx[list[ConversationView]]:
    filters = Filters()
    filters.add("c.id <> c.agent_id")
    filters.add("c.deleted_us IS NULL")
    if wanted.agent_id is not None:
        filters.add("c.agent_id = :agent_id", agent_id=wanted.agent_id)
    if wanted.archived is not None:
        filters.add(f"c.archived_us IS {'NOT ' if wanted.archived else ''}NULL")
    if wanted.summary_search:
        filters.add("LOWER(c.summary) LIKE LOWER(:in_summary) ESCAPE '!'", in_summary=contains(wanted.summary_search))
    if not wanted.with_hidden:
        filters.add("c.hidden = 0")
    rows = yield from list_rows(_CONVERSATIONS, filters, page, what="Conversation")
    return (yield from _views([_conversation(row) for row in rows]))


def counts(agent_id: str, conversation_id: str) -> Tx[tuple[int, Filed]]:
    """What a system prompt says of how much was said in a conversation, and of what its agent has archived."""
    return (yield from together(count_messages(conversation_id), filed_by(agent_id)))


def contexts(conversation_ids: Sequence[str]) -> Tx[dict[str, tuple[str, ...]]]:
    """The ids of the messages in the conversations' contexts, in order."""
    marks, params = in_list("id", conversation_ids)
    heads = yield Built(f"SELECT c.id, c.head_ids FROM conversations c WHERE c.id IN ({marks})", params)
    found = {row[0]: list(_ids(row[1])) for row in heads}
    tails = yield Built(
        "SELECT m.conversation_id, m.id FROM conversations c JOIN messages m "
        f"ON m.conversation_id = c.id AND m.pos >= c.tail_from WHERE c.id IN ({marks}) ORDER BY m.pos",
        params,
    )
    for conversation_id, message_id in tails:
        found[conversation_id].append(message_id)
    return {key: tuple(ids) for key, ids in found.items()}


def _views(conversations: Sequence[Conversation]) -> Tx[list[ConversationView]]:
    if not conversations:
        return []
    shown = yield from contexts([conversation.id for conversation in conversations])
    private: dict[str, list[str]] = {}
    if isolating := [conversation.id for conversation in conversations if conversation.settings.isolated]:
        marks, params = in_list("id", isolating)
        rows = yield Built(
            f"SELECT conversation_id, block_id FROM private_blocks WHERE conversation_id IN ({marks}) ORDER BY position",
            params,
        )
        for conversation_id, block_id in rows:
            private.setdefault(conversation_id, []).append(block_id)
    return [
        ConversationView(
            conversation=conversation,
            message_ids=shown[conversation.id],
            private_block_ids=tuple(private.get(conversation.id, ())),
        )
        for conversation in conversations
    ]


def _conversation(row: Row) -> Conversation:
    """`row` is as _COLUMNS."""
    return Conversation(
        id=row[0],
        agent_id=row[1],
        created_us=row[2],
        updated_us=row[3],
        last_message_us=row[4],
        last_run_us=row[5],
        summary=row[6],
        hidden=bool(row[7]),
        archived_us=row[8],
        settings=_settings(row[9]),
    )
