"""Every invariant that is checked can be told of: the table that `perdure trajectory verify` prints names each."""

import re
from pathlib import Path

import perdure
from perdure.tokens.verify_report import MEANING

CHECKED = re.compile(r'(?:expect|looked|bad)\(\s*"([A-Z]\d)"|\[?\("([A-Z]\d)", f?"')


def test_every_invariant_that_is_checked_has_a_meaning() -> None:
    root = Path(perdure.__file__).parent
    files = [*(root / "tokens").glob("*.py"), *(root / "rollouts").rglob("*.py")]
    named = {name for file in files for found in CHECKED.findall(file.read_text()) for name in found if name}
    assert {"P1", "X1", "R1", "R3"} <= named
    assert named <= set(MEANING)
