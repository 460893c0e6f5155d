"""Exports loaded by the libraries they are for, in an environment of their own (scripts/test_exports.sh makes it)."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from perdure.rollouts.export.formats import lines
from tests.contract.exports.loaders import LOADERS
from tests.unit.rollouts.test_export import READINGS, Trained, of_record, records

PYTHON = os.environ.get("PERDURE_EXPORTS_PYTHON")

pytestmark = pytest.mark.skipif(PYTHON is None, reason="no environment with the libraries: scripts/test_exports.sh")


@pytest.mark.parametrize("name", LOADERS)
def test_a_library_reads_the_ids_masks_and_logprobs_of_the_record(name: str) -> None:
    made = records()
    written = b"".join(lines(record, name) for record in made)
    loader = Path(__file__).with_name("loaders.py")
    done = subprocess.run(
        [str(PYTHON), str(loader), name], input=written, capture_output=True, check=False, timeout=170
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.decode())
    assert done.returncode == 0, done.stderr.decode()
    found: Trained = Counter()
    for line in done.stdout.splitlines():
        found += READINGS[name](json.loads(line))
    assert found == of_record(made)
