"""`perdure bench` and `perdure demo` as processes: what they start is measured, and is gone when they are."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perdure.bench import process
from tests.e2e.conftest import interruptible

BENCH = [sys.executable, "-m", "perdure", "bench", "--quick", "--json"]


def children(pid: int) -> list[int]:
    return [found[0] for found in process._tree(pid) if found[0] != pid]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_is_started_measured_and_stopped() -> None:
    done = subprocess.run(
        [*BENCH, "--only", "message", "--only", "builtin tool"], check=False, capture_output=True, timeout=100
    )
    report = json.loads(done.stdout)
    assert report["failures"] == {}
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert set(figures) == {"message.cpu", "message.p50", "message.p95", "tool.builtin_cpu", "tool.builtin_p50"}
    assert 0 < figures["message.cpu"] < 1000 and figures["message.p50"] <= figures["message.p95"]
    # a machine busy with other things may miss a budget: the status says so either way
    assert done.returncode == any(figure["verdict"] == "MISS" for figure in report["figures"])


def test_the_machine_is_measured_without_a_server_of_ours() -> None:
    done = subprocess.run([*BENCH, "--only", "floor"], check=False, capture_output=True, timeout=100)
    report = json.loads(done.stdout)
    assert (done.returncode, report["failures"]) == (0, {})
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert set(figures) == {"floor.request", "floor.message", "floor.token"}
    assert all(figure["value"] > 0 and figure["verdict"] == "-" for figure in figures.values())


def test_a_measurement_there_is_none_of_is_named() -> None:
    done = subprocess.run([*BENCH, "--only", "mesage"], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "'mesage'" in done.stderr and "throughput" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_interrupted_takes_its_server_along(tmp_path: Path, number: signal.Signals) -> None:
    with process.scripted_engine("--model", "scripted-delay4000") as engine:
        env = process.clean_env(
            {
                "OPENAI_BASE_URL": f"{engine.url}/v1",
                "OPENAI_API_KEY": "x",
                "PERDURE_MODEL": "openai/scripted-delay4000",
            }
        )
        demo = subprocess.Popen(
            [sys.executable, "-m", "perdure", "demo"],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=interruptible,  # noqa: PLW1509 - it takes no lock
        )
        assert demo.stdout is not None
        seen = b""
        while b"first words" not in seen:
            seen += (line := demo.stdout.readline())
            assert line, seen.decode()
        started = children(demo.pid)
        assert started
        demo.send_signal(number)
        assert demo.wait(30) not in (0, None)
        demo.stdout.close()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline, [pid for pid in started if is_running(pid)]
        time.sleep(0.05)
    assert os.listdir(tmp_path) == []


def test_a_benchmark_that_is_terminated_takes_server_and_engine_along() -> None:
    bench = subprocess.Popen([*BENCH, "--only", "throughput"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert bench.stderr is not None
    assert bench.stderr.readline().startswith(b"throughput")
    started = children(bench.pid)
    assert len(started) >= 2
    bench.send_signal(signal.SIGTERM)
    assert bench.wait(30) == 143
    bench.stderr.close()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline, [pid for pid in started if is_running(pid)]
        time.sleep(0.05)


def test_a_queue_drains_without_loss_and_every_follower_sees_every_token() -> None:
    only = ["--only", "queue", "--only", "followers", "--only", "database"]
    done = subprocess.run([*BENCH, *only], check=False, capture_output=True, timeout=110)
    report = json.loads(done.stdout)
    assert report["failures"] == {}
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert figures["queue.drained"] > 0 and figures["followers.cpu"] > 0
    assert figures["database.statements_10"] <= 14
