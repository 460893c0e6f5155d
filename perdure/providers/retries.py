"""Whether a model endpoint is worth asking again after a failure, and when.

Invariant: a wait that an endpoint asks for is kept or not begun, never cut short.
"""

import random
import sys
import time
from email.utils import parsedate_to_datetime

from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.providers.failures import RETRYABLE_STATUSES
from perdure.providers.http_exchange import Headers


class Retries(Struct, frozen=True):
    """`attempts` in all; waits grow from `base_s` by `factor`; a Retry-After above `longest_s` is not waited for."""

    attempts: int = 3
    base_s: float = 0.3
    factor: float = 3.0
    longest_s: float = 20.0


def retry_after_s(headers: Headers) -> float | None:
    """Seconds from retry-after-ms, or from Retry-After: a number, or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        text = headers.get(name)
        if text is not None:
            try:
                seconds = float(text) * unit
            except ValueError:
                seconds = _until(text)
            if seconds is not None and 0 <= seconds < sys.maxsize:
                return seconds
    return None


def _until(date: str) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def seconds_before(error: ProviderError, attempt: int, retries: Retries) -> float | None:
    """How long to wait before the next attempt; None: it would not help."""
    if not error.retryable or (error.status is not None and error.status not in RETRYABLE_STATUSES):
        return None
    if error.kind == "llm_timeout" and error.status is None:
        return None  # the caller has waited its full time already
    if error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= retries.longest_s else None
    wait_s = retries.base_s * retries.factor ** (attempt - 1)
    return min(wait_s, retries.longest_s) * (0.75 + random.random() / 2)
