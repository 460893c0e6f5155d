"""Several servers of one model as one TokenEngine: each conversation keeps to the server that holds its prefix.

Invariant: one request is answered by one server from its first id to its last; another is asked only while nothing of an answer
has been given out.
"""

import hashlib
import logging
import time
import uuid
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.core.tokens import LogprobSemantics
from perdure.providers.base import TokenBatch, TokenDone, TokenEngine, TokenRequest
from perdure.providers.retries import Retries

log = logging.getLogger(__name__)

KEPT_PLACES = 20_000
LONGEST_REST_S = 30.0
BUSY = frozenset({429, 503, 529})
PREFIX_IDS = 256

Pause = Callable[[ProviderError, int, Retries], Awaitable[bool]]


class ReplicaState(Struct, frozen=True):
    """`weight_version`: as its last answer told. `error`: why it rests; None while it is up."""

    base_url: str
    up: bool
    running: int
    weight_version: str | None
    error: str | None


class _Replica:
    def __init__(self, engine: TokenEngine) -> None:
        self.engine = engine
        self.running = 0
        self.failures = 0
        self.rests_until = 0.0
        self.error: ProviderError | None = None
        self.weight_version: str | None = None

    def up(self, now: float) -> bool:
        """One that failed rests for a while; then the next request that prefers it tries it again."""
        return self.rests_until <= now

    def answered(self) -> None:
        if self.error is not None:
            log.info("the engine at %s answers again", self.engine.base_url)
        self.failures, self.rests_until, self.error = 0, 0.0, None

    def failed(self, error: ProviderError, now: float) -> None:
        if error.status in BUSY:
            return  # it is there and has too much to do: others are asked this time
        if self.error is None:
            log.warning("the engine at %s is not asked for a while: %s", self.engine.base_url, error.message)
        self.failures, self.error = self.failures + 1, error
        self.rests_until = now + min(LONGEST_REST_S, 2.0 ** (self.failures - 1))


class Replicas:
    """Implements `base.TokenEngine` over several of one kind. `pause`: waits before a further round through all of them, if
    that is worth it (`Http.pause`).

    A call prefers the server that its conversation (`affinity[0]`) was on; a new conversation the one that its like
    (`affinity[1]`, the attempts of one group) hash to, unless that one has far more to do than the others.
    """

    def __init__(
        self,
        engines: Sequence[TokenEngine],
        *,
        pause: Pause,
        retries: Retries = Retries(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replicas = [_Replica(engine) for engine in engines]
        self._pause = pause
        self._retries = retries
        self._clock = clock
        self._places: OrderedDict[str, _Replica] = OrderedDict()
        self.kind = engines[0].kind
        self.logprob_semantics: LogprobSemantics = engines[0].logprob_semantics

    @property
    def base_url(self) -> str:
        return self._replicas[0].engine.base_url

    @property
    def engines(self) -> list[TokenEngine]:
        return [replica.engine for replica in self._replicas]

    def states(self) -> list[ReplicaState]:
        now = self._clock()
        return [
            ReplicaState(
                each.engine.base_url,
                each.up(now),
                each.running,
                each.weight_version,
                each.error.message if each.error is not None else None,
            )
            for each in self._replicas
        ]

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone]:
        own, like = request.affinity
        asked = request
        round_number = 0
        while True:
            round_number += 1
            error: ProviderError | None = None
            for replica in self._order(own or _prefix(request.ids), like):
                begun = False
                replica.running += 1
                try:
                    async with aclosing(replica.engine.generate(asked)) as answer:  # type: ignore[type-var]
                        async for item in answer:
                            if not begun:
                                begun = True
                                self._answers(replica, own)
                            if isinstance(item, TokenDone):
                                item = self._told(replica, item)
                            yield item
                    return
                except ProviderError as failure:
                    if begun or not failure.retryable:
                        raise
                    replica.failed(failure, self._clock())
                    error = failure
                finally:
                    replica.running -= 1
                asked = msgspec.structs.replace(request, request_id=uuid.uuid4().hex)
            assert error is not None
            if not await self._pause(error, round_number, self._retries):
                raise error

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        error: ProviderError | None = None
        for replica in self._order(_prefix(ids), ""):
            try:
                return await replica.engine.score(model, ids, start, vocab_size)
            except ProviderError as failure:
                if not failure.retryable:
                    raise
                replica.failed(failure, self._clock())
                error = failure
        assert error is not None
        raise error

    async def close(self) -> None:
        for engine in self.engines:
            closing: Any = getattr(engine, "close", None)
            if closing is not None:
                await closing()

    def _order(self, own: str, like: str) -> list[_Replica]:
        """Whom to ask, the preferred first; those that rest come last, so that they are asked before giving up."""
        ranked = sorted(self._replicas, key=lambda each: _weight(like or own, each.engine.base_url), reverse=True)
        now = self._clock()
        placed = self._places.get(own)
        if placed is None:
            limit = 4 + 1.5 * (1 + sum(each.running for each in ranked)) / len(ranked)
            placed = next((each for each in ranked if each.up(now) and each.running < limit), None)
        return sorted(ranked, key=lambda each: (not each.up(now), each is not placed))

    def _answers(self, replica: _Replica, own: str) -> None:
        replica.answered()
        if own:
            self._places[own] = replica
            self._places.move_to_end(own)
            if len(self._places) > KEPT_PLACES:
                self._places.popitem(last=False)

    def _told(self, replica: _Replica, done: TokenDone) -> TokenDone:
        if done.versions:
            replica.weight_version = done.versions[-1].version
        return msgspec.structs.replace(done, base_url=replica.engine.base_url)


def _weight(key: str, base_url: str) -> bytes:
    """Rendezvous hashing: every server process ranks alike, and a server that leaves moves only its own."""
    return hashlib.blake2b(f"{key}\n{base_url}".encode(), digest_size=8).digest()


def _prefix(ids: "array[int]") -> str:
    return hashlib.blake2b(ids[:PREFIX_IDS].tobytes(), digest_size=8).hexdigest()
