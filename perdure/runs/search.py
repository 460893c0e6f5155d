"""What an agent's tools can look up, answered from the store."""

from collections.abc import Sequence

from perdure.store.archives import archive_ids_of_agent
from perdure.store.base import Store, Tx
from perdure.store.message_search import MessageSearch, index_new_messages, search_messages
from perdure.store.passage_search import Found, PassageSearch, search_passages
from perdure.tools.base import MessageHit, PassageHit, TagMatch


class StoreSearch:
    """One agent's memory. Implements `tools.base.MemorySearch`."""

    def __init__(self, store: Store, agent_id: str) -> None:
        self._store = store
        self._agent_id = agent_id

    async def search_passages(
        self, query: str, tags: Sequence[str], tag_match_mode: TagMatch, top_k: int, start: int | None, end: int | None
    ) -> Sequence[PassageHit]:
        def tx() -> Tx[list[Found]]:
            archive_ids = yield from archive_ids_of_agent(self._agent_id)
            wanted = PassageSearch(
                query=query,
                archive_ids=tuple(archive_ids),
                tags=tuple(tags),
                match_all_tags=tag_match_mode == "all",
                from_us=start,
                to_us=end,
                limit=top_k,
            )
            return (yield from search_passages(wanted))

        return [
            PassageHit(
                id=hit.passage.id,
                text=hit.passage.text,
                tags=hit.passage.tags,
                created_us=hit.passage.created_us,
                relevance=hit.score,
            )
            for hit in await self._store.scan(tx)
        ]

    async def search_messages(
        self, query: str | None, roles: Sequence[str], limit: int, start: int | None, end: int | None
    ) -> Sequence[MessageHit]:
        while await self._store.write(index_new_messages):
            pass
        wanted = MessageSearch(
            query=query, agent_id=self._agent_id, roles=tuple(roles), from_us=start, to_us=end, limit=limit
        )
        return [
            MessageHit(
                id=hit.message.id, role=hit.message.role, text=hit.message.text, created_us=hit.message.created_us
            )
            for hit in await self._store.scan(lambda: search_messages(wanted))
        ]
