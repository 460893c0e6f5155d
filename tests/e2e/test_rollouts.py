"""Rollouts driven over HTTP: groups of attempts from one agent's state, scored, exported and verified."""

import json
import time
import urllib.request
from typing import Any

import pytest
from letta_client import Letta

from perdure.providers.base import TokenRequest
from perdure.providers.scripted import Completion
from perdure.tokens.verify import verify_bytes
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer
from tests.e2e.conftest import ServerProcess

REMEMBER = (
    '<tool_call>\n{"name": "memory_insert", "arguments": {"label": "human", "new_string": "likes %s"}}\n</tool_call>'
)
LENGTH = """
def reward(rollout):
    return {"words": len(rollout["answer"].split()), "steps": sum(run["steps"] for run in rollout["runs"])}
"""


def ask(server: ServerProcess, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        server.url + path, data=data, method=method, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def lines(server: ServerProcess, query: str) -> bytes:
    with urllib.request.urlopen(f"{server.url}/v1/trajectories?{query}", timeout=30) as answer:
        return answer.read()


def ended(server: ServerProcess, job_id: str, within_s: float = 40.0) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        _, job = ask(server, "GET", f"/v1/rollouts/{job_id}")
        if job["status"] != "running":
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job did not end: {job}")


def new_agent(client: Letta, **fields: Any) -> Any:
    return client.agents.create(
        model="sglang/tiny",
        memory_blocks=[{"label": "human", "value": "Ann"}],
        include_base_tools=False,
        tools=["memory_insert"],
        **fields,
    )


def remembering(request: TokenRequest) -> str:
    """Told by the prompt alone, in whatever order the attempts come."""
    last = small_tokenizer().decode(request.ids).rpartition("<|im_start|>user")[2]
    return "I wrote it down now." if "<tool_response>" in last else REMEMBER % "tea"


def test_groups_are_run_from_the_agents_own_state_and_leave_it_alone(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    exact_engine.script("Hello Ann.")
    client.agents.messages.create(agent.id, input="I am here.")
    exact_engine.engine.answer = remembering
    status, job = ask(
        exact_server,
        "POST",
        "/v1/rollouts",
        {
            "agent_id": agent.id,
            "tasks": [{"id": "tea", "input": "I like tea."}, {"id": "too", "input": "Tea, please."}],
            "group_size": 2,
            "max_concurrency": 4,
            "rewards": [{"name": "length", "weight": 0.5, "source_code": LENGTH}],
        },
    )
    assert status == 201, job
    job = ended(exact_server, job["id"])
    assert job["counts"] == {"completed": 4}, job
    assert [(r["task_id"], r["group_index"], r["reward"]) for r in job["rollouts"]] == [
        ("tea", 0, 3.5),
        ("tea", 1, 3.5),
        ("too", 0, 3.5),
        ("too", 1, 3.5),
    ]
    assert len({r["group_id"] for r in job["rollouts"]}) == 2
    assert client.agents.blocks.retrieve("human", agent_id=agent.id).value == "Ann"
    assert [a.id for a in client.agents.list().items] == [agent.id]
    for rollout in job["rollouts"]:
        assert "likes tea" in client.agents.blocks.retrieve("human", agent_id=rollout["agent_id"]).value
    prompt = exact_engine.requests[1]["input_ids"]
    shown = small_tokenizer().decode(prompt)
    assert "I am here." in shown and "Hello Ann." in shown

    data = lines(exact_server, f"job_id={job['id']}")
    report = verify_bytes(data)
    assert report.ok, report.violations
    records = [json.loads(line) for line in data.splitlines()]
    assert [record["rollout_id"] for record in records] == [r["id"] for r in job["rollouts"]]
    assert {record["group_size"] for record in records} == {2}
    assert len({record["agent_snapshot_sha256"] for record in records}) == 1
    assert report.checked["G1"] and report.checked["G2"]
    assert records[0]["task"]["id"] == "tea"
    assert [(r["name"], r["value"], r["weight"]) for r in records[0]["rewards"]] == [
        ("words", 5.0, 0.5),
        ("steps", 2.0, 0.5),
    ]
    assert records[0]["reward"] == 3.5
    only = lines(exact_server, f"job_id={job['id']}&group_id={job['rollouts'][2]['group_id']}&limit=1")
    assert json.loads(only)["rollout_id"] == job["rollouts"][2]["id"]
    assert lines(exact_server, f"job_id={job['id']}&min_reward=4") == b""


def test_a_jobs_trajectories_are_sifted_and_paged(exact_server: ServerProcess, exact_engine: SGLangDouble) -> None:
    agent = new_agent(Letta(base_url=exact_server.url, max_retries=0))
    by_place = "def reward(rollout):\n    return rollout['group_index'] if rollout['task']['id'] == 'a' else 1 / 0"
    body = {
        "agent_id": agent.id,
        "tasks": [{"id": "a", "input": "Hi"}, {"id": "b", "input": "Hi"}],
        "group_size": 3,
        "rewards": [{"name": "place", "source_code": by_place}],
    }
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    job = ended(exact_server, job["id"])
    assert job["counts"] == {"completed": 3, "failed": 3}
    ids = [rollout["id"] for rollout in job["rollouts"]]

    def found(query: str = "") -> list[str]:
        data = lines(exact_server, f"job_id={job['id']}{query}")
        return [json.loads(line)["rollout_id"] for line in data.splitlines()]

    assert found() == ids
    assert found("&status=completed") == ids[:3]
    assert found("&status=completed&status=failed") == ids
    assert found("&status=cancelled") == []
    assert found("&min_reward=1") == ids[1:3] and found("&max_reward=1") == ids[:2]
    assert found(f"&group_id={job['rollouts'][3]['group_id']}") == ids[3:]
    paged: list[str] = []
    while page := found("&limit=4" + (f"&after={paged[-1]}" if paged else "")):
        paged += page
    assert paged == ids
    for query, status, says in (
        ("&after=rollout-none", 404, "after"),
        ("&limit=0", 422, "limit"),
        ("&limit=many", 422, "limit"),
        ("&status=done", 422, "status"),
        ("&min_reward=high", 422, "min_reward"),
    ):
        answered, error = ask(exact_server, "GET", f"/v1/trajectories?job_id={job['id']}{query}")
        assert (answered, says in json.dumps(error)) == (status, True), (query, error)
    answered, error = ask(exact_server, "GET", f"/v1/trajectories?agent_id={agent.id}&min_reward=1")
    assert answered == 422 and "job_id" in json.dumps(error)
    assert ask(exact_server, "GET", "/v1/rollouts/job-none")[0] == 404


def test_approvals_and_denials_are_rewards_of_the_calls_they_answer(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    client.agents.tools.update_approval(agent_id=agent.id, tool_name="memory_insert", body_requires_approval=True)
    exact_engine.engine.answer = remembering
    body = {"agent_id": agent.id, "tasks": [{"input": "I like tea."}], "group_size": 2}
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    job = ended(exact_server, job["id"])
    for rollout, approve in zip(job["rollouts"], (True, False), strict=True):
        last = client.agents.messages.list(rollout["agent_id"], order="desc", limit=1).items[0]
        call_id = last.tool_call.tool_call_id  # type: ignore[union-attr]
        answer: Any = {"type": "approval", "tool_call_id": call_id, "approve": approve}
        client.agents.messages.create(rollout["agent_id"], messages=[{"type": "approval", "approvals": [answer]}])
    records = [json.loads(line) for line in lines(exact_server, f"job_id={job['id']}").splitlines()]
    given = [[(each["name"], each["value"], each["weight"]) for each in record["rewards"]] for record in records]
    assert given == [[("approval", 1.0, 0.0)], [("approval", -1.0, 0.0)]]
    for record in records:
        (reward,) = record["rewards"]
        called = [call[0] for message in record["messages"] for call in message.get("tool_calls") or ()]
        assert reward["target_id"] in called and reward["source"] == "person"
    assert verify_bytes(lines(exact_server, f"job_id={job['id']}")).ok


def prompts(double: SGLangDouble) -> list[list[int]]:
    return [request["input_ids"] for request in double.requests]


def test_all_attempts_of_a_group_and_their_agent_share_one_prefix(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    """Token for token, so that the engine keeps one cache for all of them."""
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    exact_engine.engine.default = "Hm."
    client.agents.messages.create(agent.id, input="I am here.")
    body = {"agent_id": agent.id, "tasks": [{"turns": ["One?", "Two?"]}], "group_size": 6, "max_concurrency": 6}
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    assert ended(exact_server, job["id"])["counts"] == {"completed": 6}
    client.agents.messages.create(agent.id, input="One?")
    said, *others, after = prompts(exact_engine)
    assert len(others) == 12
    first = [ids for ids in others if "Two?" not in small_tokenizer().decode(ids)]
    assert first == [after] * 6
    assert after[: len(said)] == said
    second = [ids for ids in others if ids not in first]
    assert second == [second[0]] * 6 and second[0][: len(after)] == after


def test_what_attempts_compile_anew_differs_in_their_memory_alone(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    for liked in ("tea", "tea", "rum"):
        exact_engine.script(REMEMBER % liked, "Noted.", "Hm.")
    body = {
        "agent_id": agent.id,
        "tasks": [{"turns": ["Listen.", "And now?"]}],
        "group_size": 3,
        "max_concurrency": 1,
        "memory_rendering": "recompile",
    }
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    assert ended(exact_server, job["id"])["counts"] == {"completed": 3}
    made = prompts(exact_engine)
    assert len(made) == 9
    tea, again, rum = made[2], made[5], made[8]
    assert "likes tea" in small_tokenizer().decode(tea).split("Listen.")[0], "the prompt was not compiled anew"
    assert tea == again != rum
    differing = [
        pair
        for pair in zip(*(small_tokenizer().decode(ids).splitlines() for ids in (tea, rum)), strict=True)
        if pair[0] != pair[1]
    ]
    assert all("tea" in one and "rum" in other for one, other in differing)


def test_attempts_begin_with_the_agent_as_it_was_when_the_job_was_accepted(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    exact_engine.engine.default = Completion(text="Hm.", batch=1, pause_s=0.1)
    body = {"agent_id": agent.id, "tasks": [{"input": "One?"}], "group_size": 4, "max_concurrency": 1}
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    client.agents.blocks.update("human", agent_id=agent.id, value="Bob")
    client.agents.messages.create(agent.id, input="I am here.")
    assert ended(exact_server, job["id"])["counts"] == {"completed": 4}
    made = [ids for ids in prompts(exact_engine) if "One?" in small_tokenizer().decode(ids)]
    assert made == [made[0]] * 4
    assert "Ann" in small_tokenizer().decode(made[0]) and "Bob" not in small_tokenizer().decode(made[0])


def test_what_another_agent_did_for_an_attempt_is_in_its_record(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    tool = "send_message_to_agent_and_wait_for_reply"
    helper, asker = new_agent(client), new_agent(client)
    [found] = client.tools.list(name=tool).items
    client.agents.tools.attach(str(found.id), agent_id=asker.id)
    arguments = json.dumps({"message": "What is one and one?", "other_agent_id": helper.id})
    call = f'<tool_call>\n{{"name": "{tool}", "arguments": {arguments}}}\n</tool_call>'
    exact_engine.script(call, "Two, I think.", "It is two.")
    _, job = ask(
        exact_server,
        "POST",
        "/v1/rollouts",
        {"agent_id": asker.id, "tasks": [{"id": "sum", "input": "One and one?"}]},
    )
    assert ended(exact_server, job["id"])["counts"] == {"completed": 1}
    data = lines(exact_server, f"job_id={job['id']}")
    report = verify_bytes(data, tokenizer=small_tokenizer())
    assert report.ok and report.rollouts == 1, report.violations
    record = json.loads(data)
    assert [segment["cause"] for segment in record["segments"]] == ["root", "subagent"]
    own, other = record["segments"]
    assert own["agent_id"] != other["agent_id"] and len(record["run_ids"]) == 2
    assert [made["segment_index"] for made in record["calls"]] == [0, 1, 0]
    answers = [small_tokenizer().decode(made["token_ids"]) for made in record["calls"]]
    assert "Two, I think." in answers[1] and "It is two." in answers[2]
    assert sum(own["loss_mask"]) + sum(other["loss_mask"]) == sum(made["length"] for made in record["calls"])


def test_a_reward_may_be_given_days_later(exact_server: ServerProcess, exact_engine: SGLangDouble) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    exact_engine.script("Hello Ann.")
    answer = client.agents.messages.create(agent.id, input="Hi")
    step_id = answer.messages[0].step_id
    status, given = ask(exact_server, "POST", "/v1/rewards", {"step_id": step_id, "name": "kind", "value": 1.0})
    assert status == 201, given
    client.steps.feedback.create(step_id, feedback="negative")
    record = json.loads(lines(exact_server, f"agent_id={agent.id}"))
    assert [(r["name"], r["value"], r["weight"], r["target_id"]) for r in record["rewards"]] == [
        ("kind", 1.0, 1.0, step_id),
        ("feedback", -1.0, 0.0, step_id),
    ]
    assert record["reward"] == 1.0
    assert verify_bytes(lines(exact_server, f"agent_id={agent.id}")).violations == []
    status, error = ask(exact_server, "POST", "/v1/rewards", {"name": "x", "value": 1.0})
    assert status == 422 and "exactly one of" in json.dumps(error)
    status, _ = ask(exact_server, "POST", "/v1/rewards", {"name": "x", "value": 1.0, "run_id": "run-none"})
    assert status == 404


def test_a_job_goes_on_after_the_server_died(exact_server: ServerProcess, exact_engine: SGLangDouble) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    exact_engine.engine.default = Completion(text="One two three.", batch=1, pause_s=0.05)
    _, job = ask(
        exact_server,
        "POST",
        "/v1/rollouts",
        {
            "agent_id": agent.id,
            "tasks": [{"turns": ["First.", "Second."]}],
            "group_size": 12,
            "max_concurrency": 4,
            "rewards": [{"name": "r", "source_code": "def reward(rollout):\n    return len(rollout['runs'])"}],
        },
    )
    time.sleep(1.0)
    exact_server.kill()
    exact_server.start()
    job = ended(exact_server, job["id"], 60)
    assert job["counts"] == {"completed": 12}, job
    assert all(len(set(r["run_ids"])) == 2 and r["reward"] == 2.0 for r in job["rollouts"])
    report = verify_bytes(lines(exact_server, f"job_id={job['id']}"))
    assert report.ok, report.violations


def test_a_reward_that_fails_is_an_error_and_never_a_zero(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    body = {
        "agent_id": agent.id,
        "tasks": [{"input": "Hi"}],
        "rewards": [{"name": "broken", "source_code": "def reward(rollout):\n    return 1 / 0"}],
    }
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    (rollout,) = ended(exact_server, job["id"])["rollouts"]
    assert rollout["status"] == "failed" and rollout["reward"] is None
    assert "ZeroDivisionError" in rollout["error"]


def test_a_job_is_cancelled(exact_server: ServerProcess, exact_engine: SGLangDouble) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = new_agent(client)
    exact_engine.engine.default = Completion(text="Slow " * 50, batch=1, pause_s=0.2)
    body = {"agent_id": agent.id, "tasks": [{"input": "Hi"}], "group_size": 6, "max_concurrency": 2}
    _, job = ask(exact_server, "POST", "/v1/rollouts", body)
    time.sleep(0.7)
    status, job = ask(exact_server, "POST", f"/v1/rollouts/{job['id']}/cancel")
    assert status == 200
    assert (job["status"], job["counts"]) == ("cancelled", {"cancelled": 6})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"input": "a", "turns": ["b"]}]}, "tasks"),
        ({"group_size": 0}, "group_size"),
        ({"model_settings": {"temprature": 1}}, "model_settings.temprature"),
        ({"rewards": [{"name": "x"}]}, "rewards"),
    ],
)
def test_a_wrong_job_is_refused_by_name(exact_server: ServerProcess, change: dict[str, Any], where: str) -> None:
    agent = new_agent(Letta(base_url=exact_server.url, max_retries=0))
    status, error = ask(
        exact_server, "POST", "/v1/rollouts", {"agent_id": agent.id, "tasks": [{"input": "a"}], **change}
    )
    assert status == 422
    assert where in json.dumps(error)
