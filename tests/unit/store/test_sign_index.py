"""What a sign index keeps of vectors; how it searches is in the contract every store keeps."""

import subprocess
import sys
from array import array

from perdure.store.sign_index import candidates_for, code_of


def test_a_code_is_the_signs_lowest_bit_first() -> None:
    assert code_of(array("f", [1, -1, 0, 0.5, -0.1, -1, -1, -1, 2])) == bytes([0b00001001, 0b00000001])
    assert code_of(array("f", [-1.0] * 16)) == bytes(2)


def test_longer_vectors_need_fewer_candidates() -> None:
    assert [candidates_for(dim) for dim in (256, 1024, 1536)] == [800, 400, 200]


def test_numpy_is_not_loaded_before_somebody_searches() -> None:
    program = "import sys, perdure.server as server; server.SignIndex(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
