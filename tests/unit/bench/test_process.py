import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perdure.bench import process
from perdure.bench.process import ProcessError

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_providers_and_passwords_do_not_reach_a_child() -> None:
    env = {"PATH": "/bin", "OPENAI_API_KEY": "k", "SGLANG_BASE_URL": "u", "PERDURE_PASSWORD": "p", "LETTA_X": "x"}
    assert process.clean_env({"OPENAI_API_KEY": "mine"}, env) == {"PATH": "/bin", "OPENAI_API_KEY": "mine"}


def test_a_child_that_ends_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"]
    with (
        pytest.raises(ProcessError, match=r"status 3(.|\n)*out of luck"),
        process.running(command, port=1, env=os.environ, name="It", log=tmp_path / "log") as child,
    ):
        process.wait_healthy(child, "/", 10)


def test_a_child_that_will_not_end_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.2)
    with process.running(
        [sys.executable, "-c", STUBBORN], port=1, env=os.environ, name="It", log=tmp_path / "log"
    ) as child:
        while not (told := child.log_tail()):
            time.sleep(0.01)
    assert child.process.returncode == -9
    grandchild = Path(f"/proc/{told.strip()}/stat")
    deadline = time.monotonic() + 5
    while grandchild.exists() and grandchild.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cpu_of_ended_children_counts() -> None:
    before = process.cpu_s(os.getpid())
    burn = "import time; end = time.process_time() + 0.1\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert process.cpu_s(os.getpid()) - before >= 0.1


def test_a_process_that_is_not_there_is_named() -> None:
    with pytest.raises(ProcessError, match="no process 0"):
        process.cpu_s(0)
