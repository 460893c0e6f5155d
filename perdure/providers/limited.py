"""A model within its limits: each call waits for its turn, and one that the provider refused before it began waits again.

Invariant: a place is given back however the call ends, and a call of which anything was seen is never made again.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from perdure.core.errors import ProviderError
from perdure.core.model import Chunk, CountedPrompt, ModelDone, Prompt
from perdure.providers.base import CountsTokens, Model, TokenStream
from perdure.providers.limits import REFUSALS, Gate

ATTEMPTS = 4


def limited(model: Model, own: Gate, together: Gate | None) -> Model:
    """`own`: the provider's limits. `together`: those that hold for all providers together."""
    gates = (own,) if together is None else (own, together)
    if isinstance(model, CountsTokens):
        return _LimitedCounting(model, gates)
    return LimitedModel(model, gates)


def unlimited(model: Model) -> Model:
    """The model itself, for what is no generation."""
    return model.within if isinstance(model, LimitedModel) else model


class LimitedModel:
    """Implements `base.Model`. `gates`: the provider's first."""

    def __init__(self, model: Model, gates: Sequence[Gate]) -> None:
        self.within = model
        self._gates = gates

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncGenerator[Sequence[Chunk | ModelDone]]:
        attempt = 0
        while True:
            attempt += 1
            begun = False
            try:
                async with aclosing(self._once(prompt, tokens)) as batches:
                    async for batch in batches:
                        begun = True
                        yield batch
                return
            except ProviderError as error:
                if begun or error.kind not in REFUSALS or attempt == ATTEMPTS:
                    raise

    async def _once(self, prompt: Prompt, tokens: TokenStream | None) -> AsyncGenerator[Sequence[Chunk | ModelDone]]:
        entered: list[tuple[Gate, float]] = []
        used: int | None = None
        try:
            for gate in self._gates:
                entered.append((gate, await gate.enter(prompt.agent_id)))
            async with aclosing(self.within.stream(prompt, tokens)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    if batch and isinstance(batch[-1], ModelDone):
                        used = batch[-1].usage.total_tokens
                    yield batch
        except ProviderError as error:
            if error.status is not None or error.kind in REFUSALS:
                used = used or 0  # nothing was generated
            self._gates[0].refused(error)
            raise
        finally:
            for gate, reserved in reversed(entered):
                gate.leave(reserved, used)


class _LimitedCounting(LimitedModel):
    """Implements `base.CountsTokens` too."""

    def __init__(self, model: CountsTokens, gates: Sequence[Gate]) -> None:
        super().__init__(model, gates)  # type: ignore[arg-type]
        self._counts = model
        self.context_window = model.context_window

    def count_text(self, text: str) -> int:
        return self._counts.count_text(text)

    async def count_prompt(self, prompt: Prompt) -> CountedPrompt:
        return await self._counts.count_prompt(prompt)
