"""A model whose calls go through the provider's batch API: each is parked until its answer is there, and then read from it.

Invariant: the translators above do not know. They are asked the same way each time the run goes on, get the answers that are kept
in the order the calls were made, and the first call without one stops the run where it stands.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec
from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.core.model import Chunk, ModelDone, Prompt
from perdure.providers.base import Model, TokenStream
from perdure.providers.failures import status_error
from perdure.providers.http import Answer, Endpoint, Http
from perdure.providers.retries import Retries


class ParkedCall(Struct, frozen=True, kw_only=True):
    """A call that was not made. `at`: where in the conversation it stands; `number`: which of the calls made there, from 0."""

    at: str
    number: int
    path: str
    headers: dict[str, str]
    body: bytes


class KeptAnswer(Struct, frozen=True, kw_only=True):
    """What a parked call came to. `request`: as it was sent. `direct`: the provider would not have it in a batch; it is to be
    called by itself. `final`: an error that another attempt would not change."""

    at: str
    number: int
    status: int = 200
    request: bytes = b""
    body: bytes = b""
    final: bool = False
    direct: bool = False


class CallParked(Exception):
    """The run can go on once this call has its answer. Not an error: nothing went wrong."""

    def __init__(self, call: ParkedCall) -> None:
        super().__init__("the model call waits for the provider's batch")
        self.call = call


class BatchedHttp(Http):
    """What a translator takes for the way to its provider. `kept`: the answers to the run's calls so far. `direct`: the places
    in the conversation whose call is to be made by itself."""

    def __init__(self, kept: Sequence[KeptAnswer]) -> None:
        super().__init__()
        self._kept = {(answer.at, answer.number): answer for answer in kept}
        self.direct = frozenset(answer.at for answer in kept if answer.direct)
        self._at = ""
        self._number = 0
        self.request: bytes | None = None

    def stand(self, at: str) -> None:
        """The calls from now on are made from here in the conversation."""
        if at != self._at:
            self._at, self._number = at, 0
        self.request = None

    async def open(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes | None = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
        follow: bool = False,
    ) -> Answer:
        number, self._number = self._number, self._number + 1
        kept = self._kept.get((self._at, number))
        if kept is None:
            call = ParkedCall(at=self._at, number=number, path=path, headers=dict(headers or {}), body=body or b"")
            raise CallParked(call)
        self.request = kept.request
        if kept.status == 200:
            return _Kept(self, endpoint, path, kept)
        error = status_error(endpoint.name, endpoint.base_url + path, kept.status, kept.body)
        error.sent = kept.request
        error.retryable = error.retryable and not kept.final
        raise error

    async def pause(self, error: ProviderError, attempt: int, retries: Retries) -> bool:
        """Another attempt goes with the next batch, which is pause enough."""
        return error.retryable and attempt < retries.attempts


class _Kept(Answer):
    """The body of a kept answer, as if it just came."""

    __slots__ = ("_body",)

    def __init__(self, http: Http, endpoint: Endpoint, path: str, kept: KeptAnswer) -> None:
        self._body = kept.body
        self._sent = kept.request

    @property
    def content_type(self) -> str:
        return "application/json"

    def close(self) -> None:
        pass

    def leave(self) -> None:
        pass

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def read_all(self, limit: int | None = None) -> bytes:
        return await self.read()


class BatchedModel:
    """Implements `base.Model`. Its `stream` raises CallParked too. `by_itself`: the same model, for calls that no batch takes."""

    def __init__(self, model: Model, http: BatchedHttp, by_itself: Model) -> None:
        self._model = model
        self._http = http
        self._by_itself = by_itself

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncGenerator[Sequence[Chunk | ModelDone]]:
        place = place_of(prompt)
        self._http.stand(place)
        model = self._by_itself if place in self._http.direct else self._model
        async with aclosing(model.stream(prompt, tokens)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                if batch and isinstance(batch[-1], ModelDone):
                    batch = (*batch[:-1], self._as_sent(batch[-1]))
                yield batch

    def _as_sent(self, done: ModelDone) -> ModelDone:
        """With the request that was answered, should it be made otherwise by now."""
        if done.exchange is None or self._http.request is None:
            return done
        exchange = msgspec.structs.replace(done.exchange, request=self._http.request)
        return msgspec.structs.replace(done, exchange=exchange)


def place_of(prompt: Prompt) -> str:
    """Where in the conversation a call stands: a step adds messages behind, a compaction puts another in front."""
    if not prompt.messages:
        return ""
    return f"{prompt.messages[0].id}/{prompt.messages[-1].id}"
