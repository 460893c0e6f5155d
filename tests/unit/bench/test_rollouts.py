"""The byte tokenizer of the rollout benchmark, and what it takes for a loss."""

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.bench.rollouts import CALLS, Load, RolloutLoss, _check
from perdure.bench.script import END_OF_TURN
from perdure.bench.tokenizer import START_OF_TURN, byte_tokenizer_folder
from perdure.tokens.builder import Given
from perdure.tokens.discovery import load
from perdure.tokens.export import dump_jsonl
from perdure.tokens.trajectory import rollouts_of
from tests.unit.tokens.trajectory_ledger import conversation


def test_an_id_below_256_is_that_byte(tmp_path: Path) -> None:
    found = load(byte_tokenizer_folder(tmp_path), "scripted")
    assert found is not None
    tokenizer = found.tokenizer
    text = "".join(map(chr, range(1, 300))) + "🙂\n"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.special_id("<|im_start|>") == START_OF_TURN
    assert tokenizer.special_id("<|im_end|>") == END_OF_TURN


def test_what_is_missing_is_a_loss() -> None:
    one = Load(rollouts=1, group_size=1)
    job: dict[str, Any] = {"counts": {"completed": 1}, "rollouts": [{"id": "rollout-1"}]}
    ledger = conversation()
    (record,) = rollouts_of(ledger.segments, ledger.calls, ledger.messages, given=Given(rollout_id="rollout-1"))
    data = dump_jsonl([record])
    with pytest.raises(RolloutLoss, match=f"has 4 calls that train, not {CALLS}"):
        _check(job, data, one, None)
    with pytest.raises(RolloutLoss, match=r"came to an end: \{'completed': 1, 'failed': 1\}"):
        _check({"counts": {"completed": 1, "failed": 1}}, data, one, None)
    two: dict[str, Any] = {"counts": {"completed": 2}, "rollouts": [{"id": "rollout-1"}, {"id": "rollout-2"}]}
    with pytest.raises(RolloutLoss, match="1 of 2 rollouts"):
        _check(two, data, Load(rollouts=2, group_size=1), None)
    damaged = json.loads(data)
    damaged["segments"][0]["token_ids"][5] += 1
    with pytest.raises(RolloutLoss, match="does not verify"):
        _check(job, json.dumps(damaged).encode() + b"\n", one, None)
