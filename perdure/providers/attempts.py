"""Asking a model again after a failure, as long as nothing of its answer was given out.

Invariant: an attempt that has yielded anything is the last one, and there are never more than the retries allow, wherever they
failed: on the way, by their status, or inside the answer.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from perdure.core.errors import ProviderError
from perdure.core.model import Chunk, ModelDone
from perdure.providers.http import Http
from perdure.providers.retries import Retries

Batches = AsyncGenerator[Sequence[Chunk | ModelDone], None]
Item = TypeVar("Item")


async def attempts(
    http: Http, retries: Retries, ask: Callable[[], AsyncGenerator[Item, None]]
) -> AsyncGenerator[Item, None]:
    """What the first answer that gives anything gives. Raises its ProviderError once another attempt is not worth it.

    `ask`: asks once (`Http.open` with `retry=False`) and yields the answer; it lets go of it when closed.
    """
    attempt = 0
    while True:
        attempt += 1
        given = False
        try:
            async with aclosing(ask()) as answer:
                async for item in answer:
                    given = True
                    yield item
            return
        except ProviderError as error:
            error.retryable = error.retryable and not given
            if not await http.pause(error, attempt, retries):
                raise
