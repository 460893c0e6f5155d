"""Which models can say how likely given ids are.

Invariant: ids are scored only by a vocabulary they belong to: one that is known here, or that of the server that told them.
"""

from msgspec import Struct

from perdure.core.tokens import TokenizerInfo
from perdure.providers.base import Model, TokenEngine
from perdure.providers.limited import unlimited
from perdure.providers.token_exact import TokenExactModel
from perdure.providers.vllm_chat import VLLMChat

ANY_ID = 2**31  # such an engine refuses ids it does not have by itself


class Scorer(Struct, frozen=True):
    """`tokenizer`: None where it is the server's alone. `vocab_size`: ids are below it."""

    engine: TokenEngine
    tokenizer: TokenizerInfo | None
    vocab_size: int


def scorer_of(model: Model) -> Scorer | None:
    """None for a model that takes text only."""
    within = unlimited(model)
    if isinstance(within, TokenExactModel):
        info = within.renderer.tokenizer.info
        return Scorer(within.engine, info, info.vocab_size)
    if isinstance(within, VLLMChat):
        return Scorer(within.engine, None, ANY_ID)
    return None
