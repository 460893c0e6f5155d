"""What an engine has sampled of one answer so far.

Invariant: every id has one finite logprob, and the likeliest alternatives where they were asked for.
"""

import math
from array import array
from typing import Any

from perdure.core.errors import ProviderError
from perdure.core.ids import now_us
from perdure.providers.base import TokenBatch


class Sampled:
    """What the engine sampled so far: `ids` [C], `logprobs` [C], `top` [C] of [[logprob, id], ...] where asked for."""

    def __init__(self, *, want_top: bool) -> None:
        self.ids: array[int] = array("i")
        self.logprobs: array[float] = array("f")
        self.top: list[Any] | None = [] if want_top else None
        self.first_us: int | None = None

    def add(self, batch: TokenBatch) -> None:
        if self.first_us is None and batch.ids:
            self.first_us = now_us()
        if len(batch.logprobs) != len(batch.ids):
            raise ProviderError(
                f"The engine answered {len(batch.ids)} ids with {len(batch.logprobs)} logprobs: its record is not usable."
            )
        if not math.isfinite(sum(batch.logprobs)):
            raise ProviderError("The engine answered a logprob that is no finite number: its record is not usable.")
        self.ids.extend(batch.ids)
        self.logprobs.extend(batch.logprobs)
        if self.top is not None:
            if batch.top_logprobs is None or len(batch.top_logprobs) != len(batch.ids):
                raise ProviderError("The engine left out the top logprobs that were asked for.")
            self.top.extend(batch.top_logprobs)
