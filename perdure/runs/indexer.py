"""Embeds what waits, in the background: passages as soon as they are committed, messages of agents that are searched.

Nothing waits for it but a search, and that only for a moment. A model that fails is asked again after a pause, longer each time;
until then its passages are found by their words. Nothing runs while nothing waits.
"""

import logging
import time
from collections.abc import Sequence

from perdure.core.archives import Vector
from perdure.core.errors import NotFound, ProviderError
from perdure.providers.embeddings import NO_MODEL, Embeddings
from perdure.runs.rounds import Rounds
from perdure.store import embedding
from perdure.store.base import Store
from perdure.store.embedding import Pending, Waiting
from perdure.store.sign_index import Vectors

log = logging.getLogger(__name__)

AT_ONCE = 64  # a write of so many vectors holds up no other for long
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0


class Indexer:
    """`failures`: by handle, why its vectors are missing at the moment. `unusable`: why the store can keep none at all."""

    def __init__(self, store: Store, embeddings: Embeddings, vectors: Vectors) -> None:
        self.vectors = vectors
        self.unusable: str | None = None
        self.failures: dict[str, str] = {}
        self._store = store
        self._embeddings = embeddings
        self._paused: dict[str, tuple[float, float]] = {}  # handle -> (until, pause)
        self._agents: dict[str, None] = {}
        self._of_passages = Rounds("embedding passages", self._passages)
        self._of_messages = Rounds("embedding messages", self._messages)

    def start(self) -> None:
        self._of_passages.start()
        self._of_messages.start()
        self._of_passages.ask()

    async def stop(self) -> None:
        await self._of_passages.stop()
        await self._of_messages.stop()

    def wake(self) -> None:
        """Passages were committed that wait for their vectors."""
        self._of_passages.ask()

    async def catch_up(self, timeout_s: float) -> None:
        """Until every passage that is there now has its vector, or that long."""
        await self._of_passages.served(self._of_passages.ask(), timeout_s)

    async def catch_up_messages(self, agent_ids: Sequence[str], timeout_s: float) -> None:
        """These agents' messages are searched: embed what is not yet, and wait that long for it."""
        self._agents.update(dict.fromkeys(agent_ids))
        await self._of_messages.served(self._of_messages.ask(), timeout_s)

    async def _passages(self) -> None:
        if self.unusable is not None:
            return
        for pending in await self._store.scan(embedding.archives_to_embed):
            handle = await self._model_for(pending)
            if handle is None or self._is_paused(handle):
                continue
            try:
                while await self._some_passages(pending, handle):
                    pass
            except (ProviderError, NotFound) as error:
                self._pause(handle, error.message)
            else:
                self._resume(handle)

    async def _model_for(self, pending: Pending) -> str | None:
        """The archive's own; where nobody asked for it and it is not served here, the server's."""
        handle = pending.embedding or self._embeddings.default
        if handle is None or pending.dim is not None or not pending.made or handle == self._embeddings.default:
            return handle
        try:
            await self._embeddings.check(handle)
        except NotFound as error:
            log.info("%s is searched with %s: %s", pending.archive_id, self._embeddings.default, error.message)
            return self._embeddings.default
        return handle

    async def _some_passages(self, pending: Pending, handle: str) -> bool:
        """False when none are left."""
        waiting = await self._store.scan(lambda: embedding.passages_to_embed(pending.archive_id, AT_ONCE))
        if not waiting:
            return False
        done = await self._embedded(handle, waiting)
        if pending.dim is not None and any(vector is not None and len(vector) != pending.dim for _, vector in done):
            raise ProviderError(f"{handle} answers vectors of another length than the archive's ({pending.dim}).")
        await self._store.write(lambda: embedding.embedded(self.vectors, pending.archive_id, handle, done))
        return len(waiting) == AT_ONCE

    async def _embedded(self, handle: str, waiting: Sequence[Waiting]) -> list[tuple[Waiting, Vector | None]]:
        """All at once; where the model refuses that, one by one, so that one bad text holds up none of the others."""
        try:
            vectors = await self._embeddings.embed(handle, [each.text for each in waiting])
            return list(zip(waiting, vectors, strict=True))
        except ProviderError as error:
            if error.kind not in ("llm_bad_request", "context_window_exceeded") or error.status in (401, 403, 404):
                raise
            if len(waiting) == 1:
                log.warning("passage %s cannot be embedded: %s", waiting[0].passage_id, error.message)
                return [(waiting[0], None)]
        done: list[tuple[Waiting, Vector | None]] = []
        for each in waiting:
            done += await self._embedded(handle, [each])
        if all(vector is None for _, vector in done):
            raise ProviderError(f"{handle} refused every text.")
        return done

    async def _messages(self) -> None:
        handle = None if self.unusable is not None else self._embeddings.default
        while self._agents and handle is not None and not self._is_paused(handle):
            agent_id = next(iter(self._agents))
            try:
                more = await self._some_messages(agent_id, handle)
            except (ProviderError, NotFound) as error:
                self._pause(handle, error.message)
                return
            if not more:
                self._agents.pop(agent_id, None)

    async def _some_messages(self, agent_id: str, handle: str) -> bool:
        """False when none are left."""
        rows = await self._store.scan(lambda: embedding.messages_to_embed(agent_id, handle, AT_ONCE))
        if not rows:
            return False
        said = [(pos, text) for pos, text in rows if text]
        vectors = await self._embeddings.embed(handle, [text for _, text in said])
        done = [(pos, vector) for (pos, _), vector in zip(said, vectors, strict=True)]
        upto = max(pos for pos, _ in rows)
        await self._store.write(lambda: embedding.messages_embedded(self.vectors, agent_id, handle, upto, done))
        return len(rows) == AT_ONCE

    def why_not(self, handle: str | None) -> str | None:
        """Why a search with this model goes by words only; None where it does not."""
        if self.unusable is not None:
            return self.unusable
        return NO_MODEL if handle is None else self.failures.get(handle)

    def _is_paused(self, handle: str) -> bool:
        return self._paused.get(handle, (0.0, 0.0))[0] > time.monotonic()

    def _pause(self, handle: str, reason: str) -> None:
        pause = min(2 * self._paused[handle][1], LONGEST_PAUSE_S) if handle in self._paused else FIRST_PAUSE_S
        log.warning("no embeddings from %s for the next %.0f s: %s", handle, pause, reason)
        self._paused[handle] = (time.monotonic() + pause, pause)
        self.failures[handle] = reason
        for rounds in (self._of_passages, self._of_messages):
            rounds.ask_in(pause + 0.01)

    def _resume(self, handle: str) -> None:
        self._paused.pop(handle, None)
        self.failures.pop(handle, None)
