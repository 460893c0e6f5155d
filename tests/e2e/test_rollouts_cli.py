"""`perdure rollouts`, rescoring and letta-evals against a real server whose engine takes ids."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from letta_client import AsyncLetta, Letta

from perdure.providers.scripted import Completion
from perdure.rollouts.export.verify import verify_any
from tests.doubles.sglang import SGLangDouble
from tests.e2e.conftest import ServerProcess, interruptible
from tests.e2e.test_rollouts import LENGTH, ask, lines, new_agent


def perdure(exact_server: ServerProcess, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perdure", *map(str, arguments), "--base-url", exact_server.url],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.mark.parametrize("name", ["jsonl", "parquet", "skyrl"])
def test_a_file_of_tasks_is_run_scored_and_written(
    exact_server: ServerProcess, exact_engine: SGLangDouble, tmp_path: Path, name: str
) -> None:
    agent = new_agent(Letta(base_url=exact_server.url, max_retries=0), name="tester")
    exact_engine.engine.default = Completion(text="Two words.")
    tasks, reward, out = tmp_path / "tasks.jsonl", tmp_path / "words.py", tmp_path / "out"
    tasks.write_text('{"id": "one", "input": "Hi"}\n\n{"id": "two", "turns": ["Hi", "Bye"]}\n')
    reward.write_text(LENGTH)
    done = perdure(
        exact_server,
        "rollouts",
        "run",
        tasks,
        "--agent",
        "tester",
        "--group",
        3,
        "--reward",
        reward,
        "-o",
        out,
        "--format",
        name,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["status"], job["counts"], job["agent_id"]) == ("completed", {"completed": 6}, agent.id)
    assert "6/6" in done.stderr and "two #" in done.stderr
    record = lines(exact_server, f"job_id={job['id']}")
    report = verify_any(out.read_bytes(), against=record)
    assert report.violations == [] and report.checked["D4"] > 0
    shown = perdure(exact_server, "rollouts", "show", job["id"])
    assert shown.returncode == 0 and shown.stdout.count("completed") >= 6


def test_a_failed_attempt_is_exit_status_1_and_says_why(
    exact_server: ServerProcess, exact_engine: SGLangDouble, tmp_path: Path
) -> None:
    new_agent(Letta(base_url=exact_server.url, max_retries=0), name="tester")
    tasks, reward = tmp_path / "tasks.jsonl", tmp_path / "broken.py"
    tasks.write_text('{"input": "Hi"}\n')
    reward.write_text("def reward(rollout):\n    return 1 / 0\n")
    done = perdure(exact_server, "rollouts", "run", tasks, "-a", "tester", "--reward", reward)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "has no task"), ("{}\n", "line 1"), ('{"input": "a"}\nnot json\n', "line 2 is not JSON")],
)
def test_a_wrong_task_is_named_before_anything_runs(
    exact_server: ServerProcess, tmp_path: Path, text: str, says: str
) -> None:
    new_agent(Letta(base_url=exact_server.url, max_retries=0), name="tester")
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(text)
    done = perdure(exact_server, "rollouts", "run", tasks, "-a", "tester")
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


def test_a_job_is_cancelled_from_the_command_line(exact_server: ServerProcess, exact_engine: SGLangDouble) -> None:
    agent = new_agent(Letta(base_url=exact_server.url, max_retries=0))
    exact_engine.engine.default = Completion(text="Slow " * 50, batch=1, pause_s=0.2)
    body = {"agent_id": agent.id, "tasks": [{"input": "Hi"}], "group_size": 4, "max_concurrency": 2}
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    done = perdure(exact_server, "rollouts", "cancel", job["id"], "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["counts"] == {"cancelled": 4}


def test_interrupting_the_view_leaves_the_job_and_says_how_to_find_it(
    exact_server: ServerProcess, exact_engine: SGLangDouble, tmp_path: Path
) -> None:
    new_agent(Letta(base_url=exact_server.url, max_retries=0), name="tester")
    exact_engine.engine.default = Completion(text="One two three four.", batch=1, pause_s=0.05)
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"input": "Hi"}\n')
    command = [sys.executable, "-m", "perdure", "rollouts", "run", str(tasks), "-a", "tester", "-g", "12"]
    command += ["--max-concurrency", "2", "--base-url", exact_server.url]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,  # noqa: PLW1509 - it takes no lock
    ) as watching:
        assert watching.stderr is not None
        begun = watching.stderr.readline()
        watching.stderr.readline()  # the first rollout
        watching.send_signal(signal.SIGINT)
        told = watching.stderr.read()
        assert watching.wait(20) == 130
    job_id = begun.partition(":")[0]
    assert f"{job_id} goes on at the server" in told and f"perdure rollouts cancel {job_id}" in told
    assert "Traceback" not in told
    again = perdure(exact_server, "rollouts", "watch", job_id, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["counts"] == {"completed": 12}
    assert "12/12" in again.stderr
    lost = perdure(exact_server, "rollouts", "watch", "job-none")
    assert lost.returncode == 1 and "not found" in lost.stderr


def test_what_is_on_record_is_scored_again_by_the_weights_served_now(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    exact_engine.script("Hello Ann.")
    client.agents.messages.create(agent.id, input="Hi")
    exact_engine.script("Bye Ann.")
    answer = client.agents.messages.create(agent.id, input="Bye")
    record = json.loads(lines(exact_server, f"agent_id={agent.id}"))
    segment = record["segments"][0]
    run_id = client.runs.list(agent_id=agent.id).items[0].id
    assert answer.messages
    for wanted in (agent.id, record["rollout_id"], segment["segment_id"]):
        status, scored = ask(exact_server, "POST", f"/v1/trajectories/{wanted}/rescore", {})
        assert status == 200, scored
        (found,) = scored["segments"]
        sampled = [at for at, call in enumerate(segment["call_index"]) if call >= 0]
        assert found["positions"] == sampled
        assert found["recorded"] == [segment["logprobs"][at] for at in sampled]
        assert found["logprobs"] == pytest.approx(found["recorded"], abs=1e-5)
        assert found["log_ratio"] == pytest.approx(0.0, abs=1e-3)
        assert found["trained_tokens"] == sum(segment["loss_mask"])
    status, scored = ask(exact_server, "POST", f"/v1/trajectories/{run_id}/rescore")
    assert status == 200 and scored["segments"][0]["trained_tokens"] < sum(segment["loss_mask"])


@pytest.mark.parametrize(
    ("wanted", "body", "status"),
    [
        ("rollout-00000000-0000-4000-8000-000000000000", {}, 404),
        ("segment-00000000-0000-4000-8000-000000000000", {}, 404),
        ("block-1", {}, 422),
        ("run-00000000-0000-4000-8000-000000000000", {"model": 5}, 422),
    ],
)
def test_what_cannot_be_scored_again_is_said(exact_server: ServerProcess, wanted: str, body: Any, status: int) -> None:
    assert ask(exact_server, "POST", f"/v1/trajectories/{wanted}/rescore", body)[0] == status


@pytest.mark.slow
async def test_letta_evals_fetches_complete_and_consistent_turns(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    trace = pytest.importorskip("letta_evals.execution.trace")
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    call = '<tool_call>\n{"name": "memory_insert", "arguments": {"label": "human", "new_string": "x"}}\n</tool_call>'
    for said in ("Hi", "Again"):
        exact_engine.script(call, "Done now.")
        client.agents.messages.create(agent.id, input=said, extra_body={"return_token_ids": True})
    async with AsyncLetta(base_url=exact_server.url, max_retries=0) as fetching:
        turns = await trace.fetch_token_data(fetching, agent.id)
    record = json.loads(lines(exact_server, f"agent_id={agent.id}"))
    made = [turn for turn in turns if turn.output_ids]
    assert [turn.output_ids for turn in made] == [each["token_ids"] for each in record["calls"]]
    for turn, each in zip(made, record["calls"], strict=True):
        segment = record["segments"][each["segment_index"]]
        assert turn.input_ids == segment["token_ids"][: each["start"]]
        assert [triple[1] for triple in turn.output_token_logprobs] == each["token_ids"]
        assert [triple[0] for triple in turn.output_token_logprobs] == each["logprobs"]
    assert sum(1 for turn in turns if turn.role == "tool" and turn.content) == 2


def test_drift_shows_what_rendering_again_would_have_changed(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    plain, spaced = new_agent(client), new_agent(client)
    exact_engine.script("Hello Ann.", "Bye Ann.")
    for said in ("Hi", "Bye"):
        client.agents.messages.create(plain.id, input=said)
    _, report = ask(exact_server, "GET", f"/v1/trajectories/drift?agent_id={plain.id}")
    assert (report["calls"], report["drifted"], report["tools"]) == (2, 0, {}), report
    call = '<tool_call>\n{"name":"memory_insert","arguments":{"label":"human","new_string":"x"}}\n</tool_call>'
    exact_engine.script(call, "Done now.")
    client.agents.messages.create(spaced.id, input="Hi")
    _, report = ask(exact_server, "GET", f"/v1/trajectories/drift?agent_id={spaced.id}")
    assert (report["calls"], report["drifted"], report["rate"]) == (2, 1, 0.5), report
    assert report["models"]["sglang/tiny"]["drifted"] == 1
    assert report["tools"]["memory_insert"]["rate"] == 1.0
    first = report["first_difference"]
    assert first["recorded"] != first["rendered"] and "memory_insert" in first["before"] + first["recorded"]
    shown = perdure(exact_server, "trajectory", "drift", spaced.id)
    assert shown.returncode == 0 and "50.0%" in shown.stdout and "re-rendered" in shown.stdout
    assert ask(exact_server, "GET", "/v1/trajectories/drift")[0] == 422
