"""What the suite of translators (test_translators.py) asks of a provider's API: how an answer looks on its wire.

To plug a provider in: write a Speaker (tests/contract/translators/NAME.py), add it to `SPEAKERS` in test_translators.py, and
run the suite once with PERDURE_UPDATE_SNAPSHOTS=1.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.core.messages import HiddenReasoningPart, Message, Part, ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, ModelDone
from perdure.core.runs import Usage
from perdure.providers.base import Model
from perdure.providers.http import Http
from tests.contract.conversations import Call, Hidden, Need, Said, Text, Thinking


class Translator(Protocol):
    """Bytes of one answer's body in, chunks out; `finish` when there are no more. Either raises ProviderError."""

    def feed(self, data: bytes) -> Sequence[Chunk]: ...

    def finish(self) -> tuple[Sequence[Chunk], ModelDone]: ...


class Speaker(Protocol):
    """One API. `can`: what of the table's needs it has. `keeps_call_ids`: its calls carry ids of their own.

    `usage_fields`: what its usage tells beyond prompt, completion and total tokens.
    """

    name: str
    handle: str
    can: frozenset[Need]
    keeps_call_ids: bool
    usage_fields: frozenset[str]
    stream_type: str

    def model(self, http: Http, url: str, *, stream: bool) -> Model:
        """The model behind a server at `url`."""
        ...

    def translator(self) -> Translator:
        """For one streamed answer."""
        ...

    def streamed(self, said: Said) -> bytes:
        """The body of the answer, streamed."""
        ...

    def whole(self, said: Said) -> tuple[int, bytes] | None:
        """The status and body of the answer in one piece; None: the API has no such answer."""
        ...

    def shown(self, body: Any) -> Any:
        """A request's body without what is different each time."""
        ...


@runtime_checkable
class Wraps(Protocol):
    """A Speaker whose API's signatures hold more than the table's."""

    def wrapped(self, message: Message) -> Message:
        """A message of the table as an answer of this API is stored."""
        ...

    def opened(self, part: Part) -> Part:
        """A part of an answer as the table has it."""
        ...


class Outcome(Struct, frozen=True):
    """How one answer came out: its chunks, and its end or error."""

    chunks: tuple[Chunk, ...]
    done: ModelDone | None
    error: tuple[str, bool, str] | None


def play(translator: Translator, pieces: Sequence[bytes]) -> Outcome:
    """The outcome of an answer that arrives in these pieces."""
    chunks: list[Chunk] = []
    try:
        for piece in pieces:
            chunks += translator.feed(piece)
        last, done = translator.finish()
        chunks += last
    except ProviderError as error:
        return Outcome(tuple(chunks), None, (error.kind, error.retryable, error.message))
    return Outcome(tuple(chunks), done, None)


def expected_content(speaker: Speaker, said: Said) -> tuple[Part, ...]:
    """The parts an answer means, as far as the API can say them."""
    signs = "signatures" in speaker.can
    parts: list[Part] = []
    for item in said.items:
        if isinstance(item, Call):
            continue
        if isinstance(item, Hidden):
            parts.append(HiddenReasoningPart(item.data))
        elif isinstance(item, Thinking):
            parts.append(ReasoningPart("".join(item.pieces), signature=item.signature if signs else None))
        else:
            parts.append(TextPart("".join(item.pieces)))
    return tuple(parts)


def expected_calls(said: Said) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(item.id, item.name, "".join(item.pieces)) for item in said.items if isinstance(item, Call))


def expected_usage(speaker: Speaker, said: Said) -> Usage:
    given = said.usage
    more = {name: getattr(given, name) for name in speaker.usage_fields}
    return Usage(given.prompt_tokens, given.completion_tokens, given.total_tokens, **more)


def texts_of(said: Said) -> str:
    return "".join("".join(item.pieces) for item in said.items if isinstance(item, Text))
