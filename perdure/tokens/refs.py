"""The small parts of a `traj/1` record that refer to something: a message by its text, one request of a generation.

Invariant: nothing secret goes in: no user name, password or query of an engine's address.
"""

from urllib.parse import urlsplit, urlunsplit

from perdure.core.messages import Message, TextPart
from perdure.core.tokens import GenerationAttempt
from perdure.tokens.record import AttemptRef, FinishRef, MessageRef, WeightSpan


def attempt_ref(attempt: GenerationAttempt, completion: list[int], versions: list[WeightSpan]) -> AttemptRef:
    """One request of a generation that took several, with its own ids; its versions count from its first id."""
    end = attempt.start + attempt.length
    spans = [
        WeightSpan(
            version=span.version,
            start=max(span.start, attempt.start) - attempt.start,
            end=min(span.end, end) - attempt.start,
        )
        for span in versions
        if span.start < end and span.end > attempt.start
    ]
    return AttemptRef(
        engine_request_id=attempt.engine_request_id,
        base_id=without_secrets(attempt.engine_base_url),
        start=attempt.start,
        length=attempt.length,
        token_ids=completion[attempt.start : end],
        finish=FinishRef(type=attempt.finish.type, matched=attempt.finish.matched, raw=attempt.finish.raw),
        weight_versions=spans,
        cached_tokens=attempt.cached_tokens,
        retractions=attempt.retractions,
    )


def message_ref(message_id: str, role: int, message: Message | None) -> MessageRef:
    """A compiled system message is rewritten in place, so its stored text may not be the one these ids show: left out."""
    if message is None or message.role == "system":
        return MessageRef(id=message_id, role=role)
    texts = [message.text] if message.text else []
    for answer in message.tool_returns:
        parts = answer.content if not isinstance(answer.content, str) else (TextPart(answer.content),)
        texts.extend(part.text for part in parts if isinstance(part, TextPart))
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    return MessageRef(id=message_id, role=role, text="\n".join(texts), tool_calls=calls)


def without_secrets(url: str | None) -> str | None:
    """A base URL without the user name and password it may carry."""
    if url is None:
        return None
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
