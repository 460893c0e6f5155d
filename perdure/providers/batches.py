"""The seam to providers' own batch APIs: many calls handed in at once, answered within a day, at a lower price.

Invariant: a call keeps the body that its translator made for it; a batch is only another way to carry it there. What comes back
is the body (or the error) that the same call would have had by itself.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

EXPIRED = 'The provider\'s batch ended before it came to this request. Send it again, or by the queue (`via`: "queue").'
CANCELLED = "The provider's batch was cancelled before it came to this request."


class BatchProfile(Struct, frozen=True, kw_only=True):
    """A provider's batch API as data. `api`: whose shape it has. `requests` and `size` (bytes): the most of one batch.

    `marked`: a batch can be told to be ours before it has ended, by a mark it carries or by its file. `asked`: used only where
    a section or a batch says so, since not every account has it.
    """

    api: Literal["openai", "mistral", "anthropic", "azure", "gemini", "together", "xai"] = "openai"
    requests: int = 50_000
    size: int = 200 * 2**20
    marked: bool = True
    asked: bool = False


class Ask(Struct, frozen=True):
    """One call of a batch. `id`: ours, unique everywhere, of letters, digits, `-` and `_`, at most 64 of them."""

    id: str
    body: bytes


class Handed(Struct, frozen=True, kw_only=True):
    """A batch as it is handed in. `path`: of its calls, below the base URL. `model`: of all its calls. `headers`: that its calls
    would have had. `created_us`: before it was first handed in. `file`: where its calls were uploaded, where that is a step of
    its own. `others`: ids of batches that look like it and are not.
    """

    id: str
    path: str
    model: str
    headers: Mapping[str, str]
    created_us: int
    count: int
    file: str | None = None
    others: tuple[str, ...] = ()


class Look(Struct, frozen=True, kw_only=True):
    """How a batch stands. "failed": none of its calls was made, `error` says why; `busy`: it would be taken later.

    `files`: where its results are.
    """

    state: Literal["going", "ended", "failed"]
    error: str = ""
    busy: bool = False
    files: tuple[str, ...] = ()


class Result(Struct, frozen=True, kw_only=True):
    """What one call came to: an HTTP status and body. `final`: there is no use in making the call again."""

    id: str
    status: int
    body: bytes
    final: bool = False


def failed(id: str, status: int, said: str | None, *, final: bool = False) -> Result:
    """Of a call that has no answer."""
    error = {"message": said or "no explanation", "code": status}
    return Result(id=id, status=status, body=msgspec.json.encode({"error": error}), final=final)


def expired(id: str) -> Result:
    return failed(id, 504, EXPIRED, final=True)


def cancelled(id: str) -> Result:
    return failed(id, 499, CANCELLED, final=True)


class BatchApi(Protocol):
    """Everything raises ProviderError. What is raised with a status was not done."""

    profile: BatchProfile

    async def upload(self, handed: Handed, asks: Sequence[Ask]) -> str | None:
        """Bring the calls there, where that is a step of its own; the id of the file. May be done again."""
        ...

    async def create(self, handed: Handed, asks: Sequence[Ask]) -> str:
        """Hand it in, once; the provider's id of it."""
        ...

    async def find(self, handed: Handed) -> str | None:
        """The provider's id of a batch that may have been handed in already. Where nothing marks a batch as ours, it is one that
        looks like it: its results tell."""
        ...

    async def look(self, remote_id: str) -> Look: ...

    def results(self, look: Look) -> AsyncGenerator[Result]:
        """Of an ended batch, in any order. A call that is missing was not made."""
        ...

    async def cancel(self, remote_id: str) -> None:
        """Nothing more of it is to be called. No error if it has ended."""
        ...
