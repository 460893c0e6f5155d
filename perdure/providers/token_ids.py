"""Token ids on their way to an engine.

Invariant: an id outside the vocabulary never leaves this process; some engines end their whole server over one.
"""

from array import array
from collections.abc import Sequence

import msgspec

from perdure.core.errors import ProviderError

_encode = msgspec.json.Encoder().encode


def check_ids(engine: str, ids: "array[int]", vocab_size: int) -> None:
    """ProviderError (llm_bad_request) unless there are ids and all of them lie in [0, vocab_size)."""
    if not ids:
        raise ProviderError(f"{engine}: a prompt needs at least one token id.", kind="llm_bad_request")
    # one pass for both ends: read as unsigned, a negative id is larger than any vocabulary
    if max(memoryview(ids).cast("B").cast("I")) < vocab_size:
        return
    at = next(index for index, token_id in enumerate(ids) if not 0 <= token_id < vocab_size)
    raise ProviderError(
        f"{engine}: token id {ids[at]} at position {at} is outside the vocabulary of {vocab_size} ids; nothing was sent.",
        kind="llm_bad_request",
    )


def json_ids(ids: "array[int] | Sequence[int]") -> bytes:
    """The ids as a JSON array."""
    return _encode(ids.tolist() if isinstance(ids, array) else ids)


def with_ids(fields: bytes, key: bytes, ids: bytes) -> bytes:
    """A JSON object (`fields`, encoded) with the ids as one more member."""
    return b"%b,%b:%b}" % (fields[:-1], key, ids) if len(fields) > 2 else b"{%b:%b}" % (key, ids)
