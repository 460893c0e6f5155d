"""What an agent's tools can look up, answered from the store."""

from collections.abc import Sequence

from perdure.core.messages import Message
from perdure.store import messages as message_store
from perdure.store.base import Store
from perdure.store.message_reads import search_messages
from perdure.store.passages import PassageSearch, match_expression, search_passages
from perdure.tools.base import MessageHit, PassageHit, TagMatch

SEARCHED_PER_RESULT = 4


class StoreSearch:
    """One agent's memory. Implements `tools.base.MemorySearch`."""

    def __init__(self, store: Store, agent_id: str) -> None:
        self._store = store
        self._agent_id = agent_id

    async def search_passages(
        self, query: str, tags: Sequence[str], tag_match_mode: TagMatch, top_k: int, start: int | None, end: int | None
    ) -> Sequence[PassageHit]:
        wanted = PassageSearch(
            query=query,
            agent_id=self._agent_id,
            tags=tuple(tags),
            match_all_tags=tag_match_mode == "all",
            from_us=start,
            to_us=end,
            limit=top_k,
        )
        found = await self._store.scan(lambda: search_passages(wanted))
        return [
            PassageHit(
                id=passage.id, text=passage.text, tags=passage.tags, created_us=passage.created_us, relevance=score
            )
            for passage, score in found
        ]

    async def search_messages(
        self, query: str | None, roles: Sequence[str], limit: int, start: int | None, end: int | None
    ) -> Sequence[MessageHit]:
        while await self._store.write(message_store.index_new_messages):
            pass
        words = match_expression(query) if query else None
        if query and words is None:
            return []
        found = await self._store.scan(
            lambda: search_messages(
                words, agent_id=self._agent_id, start_us=start, end_us=end, limit=limit * SEARCHED_PER_RESULT
            )
        )
        hits = [message for message in found if _can_be_found(message) and (not roles or message.role in roles)]
        return [
            MessageHit(id=message.id, role=message.role, text=message.text, created_us=message.created_us)
            for message in hits[:limit]
        ]


def _can_be_found(message: Message) -> bool:
    """Not the tools' traffic, nor searches themselves: they would find each other."""
    if message.role in ("system", "tool", "approval") or message.hidden or not message.text:
        return False
    return all(call.name != "conversation_search" for call in message.tool_calls)
