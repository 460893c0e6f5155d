"""What a model endpoint's failure means: HTTP statuses, error bodies and transport errors as ProviderError.

Invariant: every message names the provider and says what to do; none holds a key or more than a screenful of text.
"""

import re
from typing import Any

import msgspec

from perdure.core.errors import ProviderError, ProviderErrorKind

DETAIL_CHARS = 2000

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})

_KIND_OF_STATUS: dict[int, ProviderErrorKind] = {
    400: "llm_bad_request",
    401: "llm_authentication",
    402: "llm_insufficient_credits",
    403: "llm_authentication",
    404: "llm_bad_request",
    405: "llm_bad_request",
    408: "llm_timeout",
    413: "llm_bad_request",
    415: "llm_bad_request",
    422: "llm_bad_request",
    429: "llm_rate_limit",
    502: "llm_connection",
    503: "llm_overloaded",
    504: "llm_timeout",
    524: "llm_timeout",
    529: "llm_overloaded",
}

# How each provider says that a prompt does not fit. Read from their documentation and from recorded answers.
_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|model's context length|maximum prompt length"
    r"|available context size|longer than the maximum model length|prompt is too long|input is too long"
    r"|greater than the context length|exceeds? the (?:model's )?(?:maximum )?context (?:length|window|size)"
    r"|exceeds (?:the )?max(?:imum)? (?:number of tokens|(?:input )?length)"
    r"|exceeds? (?:the )?model'?s? max(?:imum)?[ _](?:length|len)|model_context_window_exceeded"
    r"|context window exceeds|exceeded model token limit|exceeded (?:max )?context length|model max length exceeded"
    r"|loaded with context length of only|cannot truncate prompt with n_keep|only supports up to \d+ tokens"
    r"|range of input length should be"
    r"|input length and `?max_tokens`? exceed context limit|reduce the length of the (?:messages|input|prompt)"
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be|too large for model with \d+ maximum context length",
    re.IGNORECASE,
)
_NO_CREDITS = re.compile(
    r"insufficient[_ ](?:quota|credit|balance|funds)|credit balance is too low|exceeded your current quota"
    r"|billing_hard_limit|requires more credits|payment required",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(r"API_KEY_INVALID|API key not valid|API key expired", re.IGNORECASE)
_HTML = re.compile(r"^\s*(?:<!doctype html|<html)", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>\s*(.*?)\s*</title>", re.IGNORECASE | re.DOTALL)

_ADVICE: dict[ProviderErrorKind, str] = {
    "llm_authentication": "Check the API key of provider '{name}' and what it may use.",
    "llm_insufficient_credits": "Check the billing of provider '{name}'.",
    "llm_rate_limit": "Wait, or raise the limit of this key.",
    "llm_overloaded": "Try again in a moment.",
    "llm_timeout": "Try again; if it stays so, the model or a proxy before it is too slow.",
    "context_window_exceeded": "Compact the conversation, or use a model with a longer context.",
}


def status_error(
    name: str, url: str, status: int, body: bytes, *, retry_after_s: float | None = None, content_type: str = ""
) -> ProviderError:
    """The error an HTTP answer other than 200 means."""
    text = said(body, content_type)
    if 300 <= status < 400:
        message = f"{name} answered {status}, a redirect, at {url}. Set the base URL to where it redirects."
        return ProviderError(message, kind="llm_bad_request", status=status, detail=text or None)
    return described(name, text, status, url=url, raw=body[:DETAIL_CHARS], retry_after_s=retry_after_s)


def described(
    name: str,
    text: str,
    status: int | None,
    *,
    url: str = "",
    raw: bytes = b"",
    retry_after_s: float | None = None,
    retryable: bool | None = None,
) -> ProviderError:
    """The error a provider's own words mean, `status` given where it told one (in a stream: inside the body)."""
    kind = kind_of(status, text + raw.decode("utf-8", "replace"))
    answered = f"{name} answered {status}" if status else f"{name} reported an error"
    where = f" at {url}" if url and status in (404, 405) else ""
    advice = _ADVICE.get(kind, "").format(name=name)
    message = f"{answered}{where}: {text or 'no explanation'}{'' if text.endswith(('.', '!', '?')) else '.'}"
    if retryable is None:
        retryable = status in RETRYABLE_STATUSES
    return ProviderError(
        f"{message} {advice}".rstrip(),
        kind=kind,
        status=status,
        detail=raw.decode("utf-8", "replace") or text or None,
        retryable=retryable and kind not in ("llm_insufficient_credits", "context_window_exceeded"),
        retry_after_s=retry_after_s,
    )


def kind_of(status: int | None, text: str) -> ProviderErrorKind:
    if _NO_CREDITS.search(text):
        return "llm_insufficient_credits"
    if status == 400 and _BAD_KEY.search(text):
        return "llm_authentication"
    if status in (None, 400, 413, 422, 500) and _OVERFLOW.search(text):
        return "context_window_exceeded"
    if status is None:
        return "llm_error"
    return _KIND_OF_STATUS.get(status, "llm_bad_request" if 400 <= status < 500 else "llm_error")


def said(body: bytes, content_type: str = "") -> str:
    """What an error body says, in one line: the message in any of the shapes seen, or the title of an HTML page."""
    text = body[: 16 * DETAIL_CHARS].decode("utf-8", "replace")
    if "html" in content_type or _HTML.match(text):
        title = _TITLE.search(text)
        return f"an HTML page ({title[1]!r})" if title and title[1] else "an HTML page"
    try:
        found = message_in(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    return " ".join((found or text).split())[:DETAIL_CHARS]


def message_in(value: Any) -> str | None:
    """The message in `{"error": {"message"}}`, `{"error": ""}`, `{"message"}`, `{"detail"}` or a list of such."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next((found for item in value if (found := message_in(item))), None)
    if not isinstance(value, dict):
        return None
    for key in ("error", "message", "msg", "detail", "error_message", "errors"):
        if (inner := value.get(key)) and (found := message_in(inner)):
            metadata = value.get("metadata")  # OpenRouter puts the upstream provider's own words here
            upstream = metadata.get("raw") if isinstance(metadata, dict) else None
            return f"{found}: {upstream}" if isinstance(upstream, str) and upstream else found
    return None


def status_in(value: Any) -> int | None:
    """The HTTP status an error object inside a stream tells, if it tells one."""
    if isinstance(value, dict):
        for key in ("code", "status", "status_code", "http_code"):
            code = value.get(key)
            if isinstance(code, str) and code.isdigit():
                code = int(code)
            if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
                return code
        for key in ("type", "code"):
            kind = value.get(key)
            if isinstance(kind, str) and kind in _STATUS_OF_TYPE:
                return _STATUS_OF_TYPE[kind]
    return None


def grpc_status(value: Any) -> int | None:
    """The HTTP status of an error that tells its status in numbers of gRPC, or in HTTP's own."""
    code = value.get("code") if isinstance(value, dict) else None
    code = int(code) if isinstance(code, str) and code.isdigit() else code
    return _STATUS_OF_GRPC.get(code) if isinstance(code, int) and code < 100 else status_in(value)


_STATUS_OF_GRPC = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}

_STATUS_OF_TYPE = {
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
    "billing_error": 402,
    "not_found_error": 404,
    "request_too_large": 413,
    "authentication_error": 401,
    "permission_error": 403,
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "timeout_error": 504,
    "server_error": 500,
    "api_error": 500,
    "invalid_prompt": 400,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "context_length_exceeded": 400,
}
