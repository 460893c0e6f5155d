"""What the answers of all text APIs have in common while their frames arrive: how they fail.

Invariant: what came before an error is given out before it is raised, and once anything was given out no error is worth another
attempt.
"""

from collections.abc import Iterable
from typing import ClassVar

from perdure.core.errors import ProviderError
from perdure.core.model import Chunk
from perdure.providers.failures import DETAIL_CHARS, RETRYABLE_STATUSES, described, message_in, status_in

SHOWN_CHARS = 200


class AnswerFrames:
    """One answer under way. `any_output`: some of it has been given out.

    `failure`: an error came in the same read as some of the answer, which is given out first; whatever is asked next raises it.
    A subclass reads one frame in `_take`, says in `form` what it expects, and in `unit` what an answer cannot be without.
    """

    form: ClassVar[str]
    unit: ClassVar[str]

    def __init__(self, provider: str) -> None:
        """`provider` is the name errors carry."""
        self.any_output = False
        self.failure: ProviderError | None = None
        self._provider = provider

    def feed(self, frames: Iterable[bytes]) -> list[Chunk]:
        """The chunks of some frames (the data of stream events, or a whole body). ProviderError if one tells of an error."""
        if self.failure is not None:
            raise self.failure
        chunks: list[Chunk] = []
        try:
            for data in frames:
                self._take(data, chunks)
        except ProviderError as error:
            error.retryable = error.retryable and not (self.any_output or chunks)
            if not chunks:
                raise
            self.failure = error
        if chunks:
            self.any_output = True
        return chunks

    def _take(self, data: bytes, chunks: list[Chunk]) -> None:
        raise NotImplementedError

    def _failed(self, error: object, data: bytes) -> ProviderError:
        """The error an error object in the stream tells of."""
        status = status_in(error)
        retryable = status is None or status in RETRYABLE_STATUSES
        text = message_in(error) or data[:SHOWN_CHARS].decode("utf-8", "replace")
        return described(self._provider, text, status, raw=data[:DETAIL_CHARS], retryable=retryable)

    def _unreadable(self, data: bytes, cause: Exception) -> ProviderError:
        shown = data[:SHOWN_CHARS].decode("utf-8", "replace")
        return ProviderError(
            f"{self._provider} sent what is no {self.form}: {cause}. It begins: {shown}",
            detail=data[:DETAIL_CHARS].decode("utf-8", "replace"),
            retryable=True,
        )

    def _cut_off(self) -> ProviderError:
        return ProviderError(
            f"The stream of {self._provider} ended before the answer did.",
            kind="llm_connection",
            retryable=not self.any_output,
        )

    def _empty(self) -> ProviderError:
        return ProviderError(
            f"{self._provider} sent an empty answer: no {self.unit} in it. Try again, or check the model's name.",
            kind="llm_empty_response",
            retryable=True,
        )
