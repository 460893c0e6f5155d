"""Many rollouts at once on the scripted engine: how many a second, in how much memory, and that nothing is lost by kill -9.

Invariant: what is reported was checked. Every attempt is held to its end, its record to the verifier, and after a kill every
call that was on disk at that moment to the record it belongs to, id for id.
"""

import http.client
import json
import os
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from perdure.bench.process import Child, clean_env, cpu_s, free_port, rss_bytes, scripted_engine, serving
from perdure.bench.tokenizer import byte_tokenizer_folder
from perdure.core.errors import AgentError
from perdure.core.tokens import TokenCall, bytes_to_floats, bytes_to_ids
from perdure.tokens.verify import verify_bytes

CALLS = 3  # of one rollout: a memory edit, the answer after it, and the second turn's answer
SAMPLE_S = 0.2
POLL_S = 0.25
KILL_POLL_S = 0.02  # many that go side by side end within a moment
JOB_TIMEOUT_S = 900.0

_decode = msgspec.msgpack.Decoder(TokenCall).decode


class Load(Struct, frozen=True, kw_only=True):
    """`delay_ms`: how long the engine thinks before each answer, so that many are really under way. `kill`: SIGKILL the server
    when a third of the rollouts have ended, and go on with a new one."""

    rollouts: int = 1000
    concurrency: int = 1000
    group_size: int = 8
    delay_ms: int = 200
    kill: bool = False


class Result(Struct, kw_only=True):
    """`calls_at_kill`: the calls on disk when the server was killed, all of which were found again."""

    rollouts: int
    concurrency: int
    seconds: float
    rollouts_per_s: float
    calls_per_s: float
    sampled_per_s: float
    cpu_ms_per_rollout: float | None
    idle_mb: float
    peak_mb: float
    after_mb: float
    most_at_once: int
    ended_at_kill: int | None = None
    calls_at_kill: int | None = None
    record_mb: float = 0.0


class RolloutLoss(AgentError):
    """Something that was there is gone, or something is there that must not be."""


def measure(load: Load) -> Result:
    """RolloutLoss, or ProcessError where the server does not start."""
    with tempfile.TemporaryDirectory(prefix="perdure-rollouts-") as made:
        folder = Path(made)
        tokenizers = folder / "tokenizers"
        place = byte_tokenizer_folder(tokenizers)
        port = free_port()
        with scripted_engine("--tokenizer", str(place)) as engine:
            env = clean_env({"SGLANG_BASE_URL": engine.url, "PERDURE_TOKENIZERS": str(tokenizers)})
            return _measured(load, env, folder / "server", port)


def _measured(load: Load, env: dict[str, str], data_dir: Path, port: int) -> Result:
    known: dict[str, TokenCall] | None = None
    before: dict[str, Any] = {}
    job_id, idle = "", 0
    started = time.monotonic()
    watch = _Watch()
    if load.kill:
        with serving(env, data_dir=data_dir, port=port) as server, watch.on(server.pid):
            idle = rss_bytes(server.pid)
            started = time.monotonic()
            job_id = _begin(server, load)
            before = _until(server, job_id, lambda job: _ended(job) * 3 >= load.rollouts, watch, KILL_POLL_S)
            os.kill(server.pid, signal.SIGKILL)
        known = _calls_on_disk(data_dir / "perdure.db")
    with serving(env, data_dir=data_dir, port=port) as server, watch.on(server.pid):
        if not load.kill:
            idle = rss_bytes(server.pid)
            started = time.monotonic()
            job_id = _begin(server, load)
        _until(server, job_id, lambda job: job["status"] != "running", watch)
        seconds = time.monotonic() - started
        cpu = None if load.kill else cpu_s(server.pid)
        after = rss_bytes(server.pid)
        job = _call(server, "GET", f"/v1/rollouts/{job_id}")
        data = _get(server, f"/v1/trajectories?job_id={quote(job_id)}")
    sampled = _check(job, data, load, known)
    return Result(
        rollouts=load.rollouts,
        concurrency=load.concurrency,
        seconds=seconds,
        rollouts_per_s=load.rollouts / seconds,
        calls_per_s=load.rollouts * CALLS / seconds,
        sampled_per_s=sampled / seconds,
        cpu_ms_per_rollout=None if cpu is None else cpu * 1000 / load.rollouts,
        idle_mb=idle / 1e6,
        peak_mb=watch.peak / 1e6,
        after_mb=after / 1e6,
        most_at_once=watch.most_running,
        ended_at_kill=_ended(before) if load.kill else None,
        calls_at_kill=len(known) if known is not None else None,
        record_mb=len(data) / 1e6,
    )


def _begin(server: Child, load: Load) -> str:
    agent = _call(
        server,
        "POST",
        "/v1/agents/",
        {
            "model": "sglang/scripted",
            "system": "Be brief.",
            "memory_blocks": [{"label": "human", "value": "Ann"}],
            "include_base_tools": False,
            "tools": ["memory_insert"],
        },
    )
    args = quote(json.dumps({"label": "human", "new_string": "likes tea"}), safe="")
    first = f"Remember that I like tea. [[bench tool=memory_insert args={args} delay={load.delay_ms}]]"
    second = f"What do I like? [[bench tokens=24 delay={load.delay_ms}]]"
    tasks, rest = divmod(load.rollouts, load.group_size)
    if rest:
        raise AgentError(f"{load.rollouts} rollouts are no whole number of groups of {load.group_size}.")
    body = {
        "agent_id": agent["id"],
        "tasks": [{"id": f"task-{at}", "turns": [first, second]} for at in range(tasks)],
        "group_size": load.group_size,
        "max_concurrency": load.concurrency,
    }
    return _call(server, "POST", "/v1/rollouts", body)["id"]


def _check(job: dict[str, Any], data: bytes, load: Load, known: dict[str, TokenCall] | None) -> int:
    """Answers how many tokens were sampled. RolloutLoss names the first thing that is not as it must be."""
    if job["counts"] != {"completed": load.rollouts}:
        raise RolloutLoss(f"Of {load.rollouts} rollouts, these came to an end: {job['counts']}.")
    report = verify_bytes(data)
    if not report.ok:
        raise RolloutLoss(f"The record does not verify: {report.violations[0]}")
    records = [msgspec.json.decode(line) for line in data.splitlines()]
    if [record["rollout_id"] for record in records] != [rollout["id"] for rollout in job["rollouts"]]:
        raise RolloutLoss(f"The record has {len(records)} of {load.rollouts} rollouts.")
    sampled = 0
    recorded: dict[str, tuple[list[int], list[float | None]]] = {}
    for record in records:
        trained = [call for call in record["calls"] if call["trainable"]]
        if record["status"] != "completed" or len(trained) != CALLS or len(record["calls"]) != CALLS:
            raise RolloutLoss(f"{record['rollout_id']} has {len(trained)} calls that train, not {CALLS}.")
        if partial := [call["call_id"] for call in trained if call["finish"]["type"] != "stop"]:
            raise RolloutLoss(f"{record['rollout_id']} trains on {partial[0]}, which did not come to its end.")
        for segment in record["segments"]:
            for at in {at for at in segment["call_index"] if at >= 0}:
                call = record["calls"][at]
                if call["segment_id"] == segment["segment_id"]:
                    own = slice(call["start"], call["start"] + call["length"])
                    recorded[call["call_id"]] = segment["token_ids"][own], segment["logprobs"][own]
        sampled += sum(sum(segment["loss_mask"]) for segment in record["segments"])
    for call_id, call in (known or {}).items():
        if call_id not in recorded:
            raise RolloutLoss(f"Call {call_id} was on disk when the server was killed, and is in no record.")
        if recorded[call_id] != (bytes_to_ids(call.completion_ids).tolist(), bytes_to_floats(call.logprobs).tolist()):
            raise RolloutLoss(f"Call {call_id} has other ids or logprobs than when the server was killed.")
    return sampled


def _calls_on_disk(path: Path) -> dict[str, TokenCall]:
    """Every committed call by its id. RolloutLoss for one whose reply is not there too: it would train on what nobody got."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT id, body FROM calls").fetchall()
        said = {row[0] for row in connection.execute("SELECT id FROM messages")}
    finally:
        connection.close()
    found = {call_id: _decode(body) for call_id, body in rows}
    for call in found.values():
        if call.assistant_message_id not in said:
            raise RolloutLoss(f"Call {call.id} is on disk without the reply it gave.")
    return found


class _Watch:
    """The largest memory of the server's process tree, looked up in the background, and the most rollouts under way."""

    def __init__(self) -> None:
        self.peak = 0
        self.most_running = 0

    @contextmanager
    def on(self, pid: int) -> Generator[None]:
        done = threading.Event()

        def look() -> None:
            while not done.wait(SAMPLE_S):
                try:
                    self.peak = max(self.peak, rss_bytes(pid))
                except AgentError:  # killed
                    return

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _ended(job: dict[str, Any]) -> int:
    return sum(number for status, number in job["counts"].items() if status not in ("pending", "running"))


def _until(
    server: Child, job_id: str, holds: Callable[[dict[str, Any]], bool], watch: _Watch, poll_s: float = POLL_S
) -> dict[str, Any]:
    deadline = time.monotonic() + JOB_TIMEOUT_S
    job: dict[str, Any] = {}
    while time.monotonic() < deadline:
        job = _call(server, "GET", f"/v1/rollouts/{job_id}?rollouts=false")
        watch.most_running = max(watch.most_running, job["counts"].get("running", 0))
        if holds(job):
            return job
        time.sleep(poll_s)
    raise RolloutLoss(f"The job did not come to its end within {JOB_TIMEOUT_S:.0f} s: {job.get('counts')}.")


def _call(server: Child, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        payload = None if body is None else msgspec.json.encode(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise AgentError(f"{method} {path} answered {answer.status}: {data[:300]!r}")
        return msgspec.json.decode(data)
    finally:
        connection.close()


def _get(server: Child, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()
