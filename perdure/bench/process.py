"""Processes of ours: a server as a child, and what a process tree uses, read from /proc.

A child started here never outlives its `with` block, and none of the caller's provider or password variables reach it
unless they are passed on by name.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from perdure.core.errors import AgentError

HEALTHY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
SCRUBBED_PREFIXES = ("PERDURE_", "LETTA_")
SCRUBBED_SUFFIXES = ("_API_KEY", "_BASE_URL", "_API_BASE")


class ProcessError(AgentError):
    """A process could not be started, stopped or read."""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_env(extra: Mapping[str, str], env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`env` without what would configure a server, plus `extra`."""
    kept = {k: v for k, v in env.items() if not k.startswith(SCRUBBED_PREFIXES) and not k.endswith(SCRUBBED_SUFFIXES)}
    return {**kept, **extra}


def unwind_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, through every `with` block: else its children would outlive it."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


class Child:
    """A running process whose output goes to a file. `port` is where it serves."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_tail(self, lines: int = 20) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def running(command: Sequence[str], *, port: int, env: Mapping[str, str], name: str, log: Path) -> Generator[Child]:
    """Run `command` for the block, in a process group of its own. SIGTERM at the end, SIGKILL to what is left."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield Child(process, port, log)
    finally:
        stop(process, name)


def stop(process: "subprocess.Popen[bytes]", name: str) -> None:
    """End a process and its group; waits until it is gone. ProcessError if even SIGKILL does not end it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired as error:
        raise ProcessError(f"{name} (process {process.pid}) cannot be stopped.") from error


@contextlib.contextmanager
def serving(
    env: Mapping[str, str],
    *options: str,
    data_dir: Path,
    port: int | None = None,
    timeout_s: float = HEALTHY_TIMEOUT_S,
) -> Generator[Child]:
    """`perdure serve` on this machine for the block, on `port` or a free one, healthy when it begins.

    Its log is server.log in `data_dir`. ProcessError with the end of that log if it does not get healthy.
    """
    port = port or free_port()
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "perdure", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--data-dir", str(data_dir), *options]
    with running(command, port=port, env=env, name="The server", log=data_dir / "server.log") as child:
        wait_healthy(child, "/v1/health/", timeout_s)
        yield child


@contextlib.contextmanager
def scripted_engine(*options: str, port: int | None = None) -> Generator[Child]:
    """The scripted engine as its own process for the block."""
    with tempfile.TemporaryDirectory(prefix="perdure-engine-") as folder:
        port = port or free_port()
        command = [sys.executable, "-m", "perdure.bench.engine", "--port", str(port), *options]
        log = Path(folder) / "engine.log"
        with running(command, port=port, env=clean_env({}), name="The scripted engine", log=log) as child:
            wait_healthy(child, "/health", 15.0)
            yield child


def wait_healthy(child: Child, path: str, timeout_s: float) -> float:
    """Ask until it answers 200; returns the seconds that took."""
    started = time.monotonic()
    while time.monotonic() - started < timeout_s:
        if child.process.poll() is not None:
            raise ProcessError(f"It ended while starting, with status {child.process.returncode}:\n{child.log_tail()}")
        connection = http.client.HTTPConnection("127.0.0.1", child.port, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return time.monotonic() - started
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise ProcessError(f"It did not get healthy within {timeout_s:.0f} s:\n{child.log_tail()}")


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a process and its descendants have used, the ended ones that were waited for
    included. The kernel counts in steps of 10 ms."""
    ticks = sum(sum(stat[1:]) for stat in _tree(pid))
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; pages they share count for each."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for found, *_ in _tree(pid):
        with contextlib.suppress(OSError, IndexError):
            total += int(Path(f"/proc/{found}/statm").read_text().split()[1]) * page
    return total


def _tree(pid: int) -> list[tuple[int, int, int, int, int]]:
    """(pid, utime, stime, cutime, cstime) of a process and its descendants, times in clock ticks."""
    stats: dict[int, tuple[int, tuple[int, int, int, int]]] = {}
    children: dict[int, list[int]] = {}
    if not Path("/proc/self/stat").exists():
        raise ProcessError("Reading a process's CPU time needs /proc; run the benchmark on Linux.")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # the command name, in parentheses, may hold anything; the fields after it do not
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parent = int(fields[1])
        stats[int(folder.name)] = (parent, (int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14])))
        children.setdefault(parent, []).append(int(folder.name))
    if pid not in stats:
        raise ProcessError(f"There is no process {pid}.")
    found: list[tuple[int, int, int, int, int]] = []
    left = [pid]
    while left:
        current = left.pop()
        found.append((current, *stats[current][1]))
        left += children.get(current, [])
    return found
