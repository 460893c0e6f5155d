"""Searching archives and conversations: by words and, where there is an embedding model, by meaning.

A search never fails for want of vectors. `Outcome.reason` says why it went by words only, where it did.
"""

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from perdure.core.errors import AgentError, Invalid
from perdure.core.runs import Run
from perdure.providers.embeddings import NO_MODEL, Embeddings
from perdure.runs.indexer import Indexer
from perdure.store import embedding
from perdure.store.archives import archive_ids_of_agent
from perdure.store.base import Store
from perdure.store.commits import StepCommit
from perdure.store.message_search import FoundMessage, MessageSearch, index_new_messages, search_messages
from perdure.store.passage_search import Found, PassageSearch, VectorQuery, search_passages
from perdure.tools.base import MessageHit, PassageHit, TagMatch

T = TypeVar("T")
Mode = Literal["hybrid", "fts", "vector"]

QUERY_TIMEOUT_S = 10.0
CATCH_UP_S = 1.0


class Outcome(Struct, Generic[T], frozen=True):
    """What was found. `reason`: why not everything was looked for by meaning (`in_part`), or nothing; None: all was."""

    found: list[T]
    reason: str | None = None
    in_part: bool = False


class Searcher:
    """Without `embeddings` and `indexer` it knows words only."""

    def __init__(self, store: Store, embeddings: Embeddings | None = None, indexer: Indexer | None = None) -> None:
        self._store = store
        self._embeddings = embeddings
        self._indexer = indexer

    def filed(self) -> None:
        """Passages were committed: their vectors are made now, in the background."""
        if self._indexer is not None:
            self._indexer.wake()

    def committed(self, run: Run, commit: StepCommit) -> None:
        """A worker's observer: what an agent files is embedded as soon as its step is on disk."""
        if commit.passages:
            self.filed()

    @property
    def why_words_only(self) -> str | None:
        """Why the server's own embedding model is not used; None where it is."""
        if self._indexer is None or self._embeddings is None:
            return NO_MODEL
        return self._indexer.why_not(self._embeddings.default)

    async def passages(self, wanted: PassageSearch) -> Outcome[Found]:
        if wanted.query is None or not wanted.query.strip():
            return Outcome(await self._store.scan(lambda: search_passages(wanted)))
        if self._indexer is None or self._embeddings is None or self._indexer.unusable is not None:
            return Outcome(await self._store.scan(lambda: search_passages(wanted)), self.why_words_only)
        archive_ids = wanted.archive_ids
        late = await self._late(archive_ids, self._indexer)
        queries, reason = await self._queries(wanted.query, archive_ids, self._embeddings, self._indexer)
        vectors = self._indexer.vectors
        found = await self._store.scan(lambda: search_passages(wanted, vectors, queries))
        return Outcome(found, reason or late, in_part=bool(queries))

    async def passages_of_agent(self, agent_id: str, wanted: PassageSearch) -> Outcome[Found]:
        archive_ids = await self._store.read(lambda: archive_ids_of_agent(agent_id))
        return await self.passages(msgspec.structs.replace(wanted, archive_ids=tuple(archive_ids)))

    async def messages(self, wanted: MessageSearch, mode: Mode = "hybrid") -> Outcome[FoundMessage]:
        """Invalid for `vector` where there are no vectors. The first search of an agent begins to embed its messages."""
        while await self._store.write(index_new_messages):
            pass
        if wanted.query is None or not wanted.query.strip():
            empty = wanted.query is not None
            return Outcome([] if empty else await self._store.scan(lambda: search_messages(wanted)))
        if mode == "fts":
            return Outcome(await self._store.scan(lambda: search_messages(wanted)))
        query, reason = await self._message_query(wanted.query, wanted.agent_id)
        if query is None and mode == "vector":
            raise Invalid(f"search_mode: vector is not possible: {reason} Use hybrid or fts.")
        vectors, words = self._indexer.vectors if self._indexer is not None else None, mode == "hybrid"
        found = await self._store.scan(lambda: search_messages(wanted, vectors, query, words=words))
        return Outcome(found, reason)

    async def _late(self, archive_ids: Sequence[str] | None, indexer: Indexer) -> str | None:
        """Wait a moment for what was filed just now; says so if some passages have no vector yet all the same."""
        if archive_ids is None or not await self._store.read(lambda: embedding.waits_for_vectors(archive_ids)):
            return None
        await indexer.catch_up(CATCH_UP_S)
        late = await self._store.read(lambda: embedding.waits_for_vectors(archive_ids))
        return "Some passages wait for their vectors; they are made in the background." if late else None

    async def _queries(
        self, text: str, archive_ids: Sequence[str] | None, embeddings: Embeddings, indexer: Indexer
    ) -> tuple[list[VectorQuery], str | None]:
        """The query as each of the archives' models has it, and what is wrong with those that did not answer."""
        models = await self._store.scan(lambda: embedding.models_of(archive_ids))
        if not models:  # none has vectors yet: is there a model, and does it answer?
            return [], self.why_words_only or next(iter(indexer.failures.values()), None)
        queries: list[VectorQuery] = []
        reason = None
        for handle, scopes in models.items():
            try:
                vector = await embeddings.embed_query(handle, text, timeout_s=QUERY_TIMEOUT_S)
            except AgentError as error:
                reason = error.message
            else:
                queries.append(VectorQuery(tuple(scopes), vector, embeddings.least_similarity(handle)))
        return queries, reason

    async def _message_query(self, text: str, agent_id: str | None) -> tuple[VectorQuery | None, str | None]:
        reason = self.why_words_only
        if self._indexer is None or self._embeddings is None or reason is not None:
            return None, reason
        handle = self._embeddings.default
        assert handle is not None
        agent_ids = [agent_id] if agent_id is not None else await self._store.scan(embedding.agent_ids)
        await self._indexer.catch_up_messages(agent_ids, CATCH_UP_S)
        try:
            vector = await self._embeddings.embed_query(handle, text, timeout_s=QUERY_TIMEOUT_S)
        except AgentError as error:
            return None, error.message
        scopes = await self._store.scan(lambda: embedding.message_scopes(agent_id, handle))
        return VectorQuery(tuple(scopes), vector, self._embeddings.least_similarity(handle)), None


class StoreSearch:
    """One agent's memory. Implements `tools.base.MemorySearch`."""

    def __init__(self, searcher: Searcher, agent_id: str) -> None:
        self._searcher = searcher
        self._agent_id = agent_id

    async def search_passages(
        self, query: str, tags: Sequence[str], tag_match_mode: TagMatch, top_k: int, start: int | None, end: int | None
    ) -> Sequence[PassageHit]:
        wanted = PassageSearch(
            query=query,
            tags=tuple(tags),
            match_all_tags=tag_match_mode == "all",
            from_us=start,
            to_us=end,
            limit=top_k,
        )
        outcome = await self._searcher.passages_of_agent(self._agent_id, wanted)
        return [
            PassageHit(
                id=hit.passage.id,
                text=hit.passage.text,
                tags=hit.passage.tags,
                created_us=hit.passage.created_us,
                relevance=hit.score,
            )
            for hit in outcome.found
        ]

    async def search_messages(
        self, query: str | None, roles: Sequence[str], limit: int, start: int | None, end: int | None
    ) -> Sequence[MessageHit]:
        wanted = MessageSearch(
            query=query, agent_id=self._agent_id, roles=tuple(roles), from_us=start, to_us=end, limit=limit
        )
        return [
            MessageHit(
                id=hit.message.id, role=hit.message.role, text=hit.message.said, created_us=hit.message.created_us
            )
            for hit in (await self._searcher.messages(wanted)).found
        ]
