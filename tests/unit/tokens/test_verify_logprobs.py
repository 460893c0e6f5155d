"""Which recorded logprobs a forward pass can be compared with."""

from typing import Any

import msgspec
import pytest

from perdure.tokens.record import Rollout
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify_logprobs import comparable
from tests.unit.tokens.trajectory_ledger import conversation


def why(semantics: str, **sampling: Any) -> str | None:
    ledger = conversation()
    record = rollouts_of(ledger.segments, ledger.calls, ledger.messages)[0]
    record["calls"][0] |= {"logprob_semantics": semantics, "sampling": sampling}
    return comparable(msgspec.convert(record, Rollout).calls[0])


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        ({"temperature": 0.7}, "temperature 0.7"),
        ({"temperature": 1.0, "grammar_sha256": "ab"}, "grammar"),
        ({"temperature": 0, "grammar_sha256": "ab"}, "grammar"),
        ({"temperature": 1.0, "frequency_penalty": 0.5}, "frequency_penalty of 0.5"),
        ({"temperature": 1.0, "presence_penalty": -1}, "presence_penalty of -1"),
        ({"temperature": 1.0, "repetition_penalty": 1.1}, "repetition_penalty of 1.1"),
    ],
)
def test_what_the_sampling_changed_in_them_is_told(sampling: dict[str, Any], told: str) -> None:
    assert told in (why("temperature", **sampling) or "")
    assert why("raw", **sampling) is None


def test_what_only_cuts_the_tail_leaves_them_as_they_are() -> None:
    sampling = {"temperature": 1.0, "top_p": 0.9, "min_p": 0.05, "top_k": 20}
    neutral = {"frequency_penalty": 0, "repetition_penalty": 1.0}
    assert why("temperature", **sampling, **neutral) is None
