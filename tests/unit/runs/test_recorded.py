"""What is kept of a model's request and answer for the trace of a step."""

import msgspec
import pytest

from perdure.core.model import ProviderExchange
from perdure.runs.recorded import recorded

BODY = b'{"said": "' + b"abcdefgh" * 100 + b'"}'


def kept(limit: int) -> bytes:
    request = recorded(None, ProviderExchange(request=BODY, response=b"{}"), limit)["request"]
    assert request is not None
    return request.body


def test_what_is_within_the_limit_is_kept_whole() -> None:
    assert kept(len(BODY)) == BODY


@pytest.mark.parametrize("limit", [0, 1, 64, len(BODY) - 1])
def test_of_what_is_larger_both_ends_are_kept(limit: int) -> None:
    cut = msgspec.json.decode(kept(limit))
    assert cut["truncated"] and cut["bytes"] == len(BODY)
    assert BODY.startswith(cut["head"].encode()) and BODY.endswith(cut["tail"].encode())
    assert len(cut["head"]) + len(cut["tail"]) <= limit
