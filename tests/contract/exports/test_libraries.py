"""Exports loaded by the libraries they are for, in an environment of their own (scripts/test_exports.sh makes it)."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perdure.rollouts.export.formats import lines
from tests.contract.exports.loaders import LOADERS
from tests.unit.rollouts.test_export import READINGS, Trained, of_record, records
from tests.unit.rollouts.test_export_experts import READ_EXPERTS, routed_records, true_rows

PYTHON = os.environ.get("PERDURE_EXPORTS_PYTHON")

pytestmark = pytest.mark.skipif(PYTHON is None, reason="no environment with the libraries: scripts/test_exports.sh")


def loaded(name: str, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the library has of the rows of these records."""
    written = b"".join(lines(record, name) for record in made)
    loader = Path(__file__).with_name("loaders.py")
    done = subprocess.run(
        [str(PYTHON), str(loader), name], input=written, capture_output=True, check=False, timeout=170
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.decode())
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", LOADERS)
def test_a_library_reads_the_ids_masks_and_logprobs_of_the_record(name: str) -> None:
    made = records()
    found: Trained = Counter()
    for row in loaded(name, made):
        found += READINGS[name](row)
    assert found == of_record(made)


@pytest.mark.parametrize("name", sorted(LOADERS.keys() & READ_EXPERTS.keys()))
def test_a_library_reads_the_routed_experts_of_the_record(name: str) -> None:
    (made,) = routed_records()
    if name == "verifiers":
        (row,) = loaded(name, [made])
        assert row["experts"] == [[*rows, rows[-1]] for rows in map(true_rows, made["segments"])]
        return
    found = [READ_EXPERTS[name](row) for row in loaded(name, [made])]
    assert found == [READ_EXPERTS[name](json.loads(line)) for line in lines(made, name).splitlines()]
