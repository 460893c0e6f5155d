"""The training example on a real SGLang server: two iterations of rollouts, update, push and rescoring."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.tokens.verify import verify_bytes
from tests.e2e.conftest import ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_reinforce"


@pytest.fixture
def model(sglang_url: str) -> Iterator[Path]:
    """The folder the server was started with; its weights are served again afterwards."""
    with urllib.request.urlopen(f"{sglang_url}/get_model_info", timeout=30) as answer:
        folder = Path(json.load(answer)["model_path"])
    yield folder
    body = json.dumps({"model_path": str(folder), "weight_version": "default"}).encode()
    request = urllib.request.Request(
        f"{sglang_url}/update_weights_from_disk", body, {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=60).close()


@pytest.fixture
def perdure(sglang_url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "perdure", {"SGLANG_BASE_URL": sglang_url})
    yield process
    assert process.stop() == 0, process.log()


def test_each_iteration_is_sampled_by_the_weights_the_last_one_made(
    sglang_url: str, model: Path, perdure: ServerProcess, tmp_path: Path
) -> None:
    python = os.environ.get("PERDURE_TEST_SGLANG_PYTHON")
    if not python:
        pytest.skip("PERDURE_TEST_SGLANG_PYTHON names no Python with torch and transformers")
    out = tmp_path / "out"
    servers = ["--perdure", perdure.url, "--sglang", sglang_url, "--model", str(model), "--out", str(out)]
    sizes = ["--iterations", "2", "--group", "2", "--warm-steps", "8"]
    trained = subprocess.run(
        [python, str(EXAMPLE / "trainer.py"), *servers, *sizes], capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    log: list[dict[str, Any]] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["versions"] for entry in log] == [["1"], ["2"]]
    for entry in log:
        assert entry["tokens"] > 0 and entry["rescored_tokens"] > 0
        assert entry["gap"] < 1e-3  # before its first step the trainer has the very weights that sampled
        assert entry["rescored_gap"] < 1e-3  # and what it pushed is what the engine then scores with
    last = (out / "last.jsonl").read_bytes()
    assert [json.loads(line)["versions"] for line in last.splitlines()] == [["3"]] * 4
    assert verify_bytes(last).ok
