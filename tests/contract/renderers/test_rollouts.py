"""Whole rollouts on every native renderer: no break without a cause on record, and the checker passes them all.

PERDURE_FUZZ_ROLLOUTS sets how many a renderer; `make fuzz` runs 10,000.
"""

import os

import pytest

from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify
from tests.contract.renderers.renderers import RENDERERS
from tests.doubles.rollouts import Rollout

NATIVE = [name for name in RENDERERS if not name.startswith(("generic", "smollm2"))]
COUNT = int(os.environ.get("PERDURE_FUZZ_ROLLOUTS", "40"))


async def _run(name: str, seeds: range) -> None:
    renderer = RENDERERS[name]()
    bridges = checked = 0
    for seed in seeds:
        made = Rollout(renderer, seed)
        await made.run()
        for cause, detail, possible in made.breaks:
            assert cause in possible, f"seed {seed}: a break for {cause} ({detail}), where only {possible} could be one"
        bridges += made.bridges
        records = rollouts_of(made.segments, made.calls, made.messages.values())
        report = verify(records, tokenizer=renderer.tokenizer)
        assert not report.violations, f"seed {seed}: {report.violations[:3]}"
        checked += len(records)
    assert checked == len(seeds)
    assert bridges > len(seeds)


@pytest.mark.parametrize("name", NATIVE)
async def test_rollouts_break_only_for_causes_on_record_and_pass_the_checker(name: str) -> None:
    await _run(name, range(COUNT))
