"""Errors, named by the boundary they crossed.

AgentError
├── RequestError          the caller must change something
│   ├── Invalid           400, or 422 when the body's shape is wrong (`status`)
│   ├── NotFound          404
│   ├── Conflict          409, with `run_id` of the holder where there is one
│   └── Gone, Unavailable
├── ProviderError         a model endpoint failed; `kind` says how (PromptTooLong: it was not even asked)
├── ToolError             told to the model as a tool return, never to the caller
└── StoreError            the database failed; LeaseLost means another worker owns the run now

What an error means over HTTP is said once, in `api/errors.py`; how it ends a run, once, in `runs/worker.py`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

ProviderErrorKind = Literal[
    "llm_timeout",
    "llm_rate_limit",
    "llm_insufficient_credits",
    "llm_authentication",
    "llm_bad_request",
    "llm_overloaded",
    "llm_connection",
    "llm_empty_response",
    "llm_error",
    "context_window_exceeded",
    "context_window_overflow_in_system_prompt",
]


class AgentError(Exception):
    """Base of all our errors. `message` is for people: what happened and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(AgentError):
    pass


class Invalid(RequestError):
    """The request is wrong. `status` 422: its shape; 400: its meaning."""

    def __init__(self, message: str, *, status: int = 400, examples: list[str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.examples = examples


class NotFound(RequestError):
    pass


class Conflict(RequestError):
    """Something is busy or already there. `detail` replaces the message in the body where clients match on a dict."""

    def __init__(
        self, message: str, *, run_id: str | None = None, retry: bool = False, detail: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.retry = retry
        self.detail = detail


class Gone(RequestError):
    pass


class Unavailable(RequestError):
    """Try again later, after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ProviderError(AgentError):
    """A model endpoint failed.

    `status` is its HTTP status where it answered one; `detail` what it said, cut to a sane length;
    `retryable`: nothing was generated and the same call may succeed later. `sent`: the request, where one was made.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: ProviderErrorKind = "llm_error",
        status: int | None = None,
        detail: str | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ProviderErrorKind = kind
        self.status = status
        self.detail = detail
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.sent: bytes | None = None


class PromptTooLong(ProviderError):
    """A prompt of `prompt_tokens` that was not sent: it does not fit the window, or (`fits`) only without room to go on."""

    def __init__(self, message: str, *, prompt_tokens: int, fits: bool) -> None:
        super().__init__(message, kind="context_window_exceeded")
        self.prompt_tokens = prompt_tokens
        self.fits = fits


class ToolError(AgentError):
    """A tool call that cannot be carried out; the model is told `message` and may try again."""


class StoreError(AgentError):
    pass


class LeaseLost(StoreError):
    """This worker's lease on the conversation is gone: nothing of it may be written."""


class Stopping(StoreError):
    """This process takes nothing more: another one, or the next, will."""


class StaleBlock(StoreError):
    """A block changed since the edit was computed: compute it again on the new value."""

    def __init__(self, block_id: str) -> None:
        super().__init__(f"Block {block_id} was changed by someone else in the meantime.")
        self.block_id = block_id


class StaleGroup(StoreError):
    """A group went on since its turn was counted: count again."""


@contextmanager
def boundary(error: type[AgentError], where: str) -> Generator[None]:
    """Classify what crosses here: an AgentError passes unchanged, anything else becomes `error`, cause kept."""
    try:
        yield
    except AgentError:
        raise
    except Exception as cause:
        raise error(f"{where}: {type(cause).__name__}: {cause}") from cause
