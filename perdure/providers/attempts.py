"""Asking a model again after a failure inside its answer, as long as nothing of the answer was given out.

Invariant: an attempt that has yielded anything is the last one.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from perdure.core.errors import ProviderError
from perdure.core.model import Chunk, ModelDone
from perdure.providers.http import Http
from perdure.providers.retries import Retries

Batches = AsyncGenerator[Sequence[Chunk | ModelDone], None]
Opened = TypeVar("Opened")


async def attempts(
    http: Http, retries: Retries, begin: Callable[[], Awaitable[Opened]], read: Callable[[Opened], Batches]
) -> Batches:
    """The batches of the first answer that gives any. Raises its ProviderError once another attempt is not worth it.

    `begin`: opens an answer, and tries that again by itself (`Http.open`). `read`: its batches; it closes the answer.
    """
    attempt = 0
    while True:
        attempt += 1
        given = False
        opened = await begin()
        try:
            async with aclosing(read(opened)) as batches:
                async for batch in batches:
                    given = True
                    yield batch
            return
        except ProviderError as error:
            error.retryable = error.retryable and not given
            if not await http.pause(error, attempt, retries):
                raise
