"""The seams to models.

`Model` is what the loop calls. `TokenEngine` is an engine that takes and gives token ids; `providers/token_exact.py`
makes a Model of it, a Renderer and the conversation's token stream.
"""

from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from msgspec import Struct, field

from perdure.core.experts import ExpertRows
from perdure.core.model import Chunk, CountedPrompt, ModelDone, Prompt
from perdure.core.tokens import Finish, GenerationAttempt, LogprobSemantics, Segment, VersionSpan
from perdure.providers.experts import ExpertsAsked

Category = Literal["base", "byok"]


class ModelInfo(Struct, frozen=True, kw_only=True):
    """One model a provider serves, as the catalogue lists it. `context_window` in tokens, from the provider if it tells.

    `family`: the model it is, where its name does not tell (a deployment has a name of its own). `category`: whether its
    provider was configured, or added by a user ("byok").
    """

    handle: str
    name: str
    provider_name: str
    provider_type: str
    endpoint_type: str
    endpoint: str | None = None
    context_window: int | None = None
    embedding_dim: int | None = None
    family: str | None = None
    category: Category = "base"
    kind: Literal["llm", "embedding"] = "llm"


class TokenStream:
    """The current segment of one conversation: what the engine has seen so far, and which messages that covers.

    `ids` [T] grows in place as calls are committed (single writer: the conversation's run). `last_completion_start` is
    where the last completion begins. `covered` are the ids of the context messages in the stream, in order.
    `break_cause`: the next call must begin a new segment, and this is the recorded reason (cause, detail). `last_index`: the
    highest index of any segment of the conversation, this one or a summary's. `routed`: of how many of the ids, from the first
    on, the routed experts are on record.
    """

    __slots__ = ("break_cause", "covered", "ids", "last_completion_start", "last_index", "routed", "segment")

    def __init__(self) -> None:
        self.segment: Segment | None = None
        self.ids: array[int] = array("i")
        self.last_completion_start = 0
        self.covered: list[str] = []
        self.break_cause: tuple[str, str] | None = None
        self.last_index = -1
        self.routed = 0


class Model(Protocol):
    def stream(self, prompt: Prompt, tokens: TokenStream | None = None) -> AsyncIterator[Sequence[Chunk | ModelDone]]:
        """Call the model once. Yields batches as they arrive (a batch is what one read from the network held); the last
        item of the last batch is a ModelDone. Raises ProviderError. Closing the iterator aborts the generation in the engine.

        `tokens` is read, never changed: the caller extends it once the capture is committed.
        """
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A Model that knows its tokenizer and template: what it counts is what its engine would see."""

    context_window: int | None

    def count_text(self, text: str) -> int: ...

    async def count_prompt(self, prompt: Prompt) -> CountedPrompt:
        """Raises ProviderError or Invalid for a prompt that cannot be rendered."""
        ...


class Provider(Protocol):
    """One configured endpoint. `name` is the first part of its handles."""

    name: str

    async def list_models(self) -> list[ModelInfo]:
        """What it serves now. Raises ProviderError when it cannot be reached."""
        ...

    async def model(self, name: str) -> Model:
        """The model of that name (the handle without the provider). Raises NotFound for one the provider does not have."""
        ...

    async def close(self) -> None: ...


class TokenRequest(Struct, frozen=True, kw_only=True):
    """`ids` are the whole prompt. `grammar`: where wanted, {"kind": "json_schema", "schema"}, {"regex",
    "pattern"}, {"gbnf", "grammar"}, or {"gbnf_lazy", "grammar", "triggers", "rest"}: once one of the texts `triggers` is
    written, and `rest` is the grammar of what follows it. `affinity`: whose call it is, and which others are like it (see
    `replicas.py`). `experts`: where the routed experts are wanted."""

    model: str
    ids: "array[int]"
    request_id: str
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    vocab_size: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    top_logprobs: int = 0
    grammar: dict[str, Any] | None = None
    affinity: tuple[str, str] = ("", "")
    experts: ExpertsAsked | None = None


class TokenBatch(Struct, frozen=True, kw_only=True):
    """New ids of a running generation: `ids` [n], `logprobs` [n], `top_logprobs` [n] of [(logprob, id), ...] or None."""

    ids: list[int]
    logprobs: list[float]
    top_logprobs: list[list[tuple[float, int]]] | None = None


class TokenDone(Struct, frozen=True, kw_only=True):
    """`base_url`: who answered, where that is one of several. `attempts`: of an answer that was broken off and went on.
    `experts`: what was asked for of them; an answer that was broken off may lack rows at its end, or have none."""

    finish: Finish
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    retractions: int | None = None
    versions: tuple[VersionSpan, ...] = ()
    engine_request_id: str | None = None
    request: bytes = b""
    response: dict[str, Any] = field(default_factory=dict)
    base_url: str | None = None
    attempts: tuple[GenerationAttempt, ...] = ()
    experts: ExpertRows | None = None


class TokenEngine(Protocol):
    """An engine that continues ids. Never sends an id outside [0, vocab_size): raises ProviderError(llm_bad_request) first."""

    kind: str
    logprob_semantics: LogprobSemantics

    @property
    def base_url(self) -> str: ...

    def generate(self, request: TokenRequest) -> AsyncIterator[TokenBatch | TokenDone]:
        """Ends with one TokenDone, or raises ProviderError. Closing the iterator aborts the generation in the engine."""
        ...

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        """Raw (temperature 1) logprobs of ids[start:], each given all before it, by the engine's own forward pass."""
        ...
