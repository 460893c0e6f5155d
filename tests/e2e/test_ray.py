"""On a Ray cluster of this machine: tools and rollouts in its processes, and the whole server as replicas on Ray Serve."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from letta_client import APIStatusError, Letta

from perdure.config import SettingsError
from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.doubles.postgres import PostgresProcess, binaries
from tests.e2e.conftest import ServerProcess, free_port
from tests.e2e.test_durable_requests import wait_for
from tests.e2e.test_messages import ROLL, kinds
from tests.e2e.test_rollouts import ask, ended

ray: Any = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here"),
]

SLOW = '''
def wait(seconds: int) -> str:
    """Wait.

    Args:
        seconds (int): how long
    """
    import time
    time.sleep(seconds)
    return "waited"
'''
SEEN = '''
def look() -> str:
    """Look around."""
    import os
    return " ".join(sorted(os.environ))
'''
LENGTH = """
def reward(rollout):
    return float(len(rollout["answer"]))
"""


@pytest.fixture(scope="module")
def cluster(engine: OpenAIDouble, postgres: PostgresProcess) -> Iterator[str]:
    """The address of a cluster whose processes have the settings of a server on a database of its own."""
    wanted = {
        "OPENAI_BASE_URL": engine.base_url,
        "OPENAI_API_KEY": "sk-test",
        "PERDURE_DATABASE_URL": postgres.fresh(),
        "PERDURE_ENCRYPTION_KEY": "a key for tests",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        ray.init(num_cpus=8, include_dashboard=False, namespace="perdure", log_to_driver=False)
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(scope="module")
def on_ray(cluster: str, engine: OpenAIDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`perdure serve` whose tools and rollouts run on the cluster."""
    env = {"OPENAI_BASE_URL": engine.base_url, "OPENAI_API_KEY": "sk-test", "PERDURE_RAY": cluster}
    env["PERDURE_DATABASE_URL"] = os.environ["PERDURE_DATABASE_URL"]
    server = ServerProcess(tmp_path_factory.mktemp("on-ray"), env, within_s=120)
    yield server
    server.stop()


def processes(name: str) -> list[psutil.Process]:
    """The cluster's processes for such an actor."""
    return [each for each in psutil.process_iter(["cmdline"]) if f"ray::{name}" in " ".join(each.info["cmdline"] or ())]


def new_agent(client: Letta, *sources: str) -> Any:
    tools = [client.tools.upsert(source_code=source).id for source in sources]
    return client.agents.create(model="openai/gpt-test", include_base_tools=False, tool_ids=tools)


def returned(answer: Any) -> str:
    return next(m.tool_return for m in answer.messages if m.message_type == "tool_return_message")


def test_tools_run_in_the_clusters_processes_and_see_nothing_of_them(
    on_ray: ServerProcess, engine: OpenAIDouble
) -> None:
    client = Letta(base_url=on_ray.url, max_retries=0)
    agent = new_agent(client, ROLL, SEEN)
    assert len(processes("ToolHost")) == 2
    assert on_ray.process is not None
    assert not [p for p in psutil.Process(on_ray.process.pid).children() if "zygote" in " ".join(p.cmdline())]
    engine.script(call("roll", {"sides": 6}), call("look", {}), text("Done."))
    answer = client.agents.messages.create(agent.id, input="Roll, and look around.")
    assert returned(answer) == "rolled 6"
    seen = [m.tool_return for m in answer.messages if m.message_type == "tool_return_message"][1]
    assert "PATH" in seen and "API_KEY" not in seen and "PERDURE" not in seen and "RAY" not in seen
    _, health = ask(on_ray, "GET", "/v1/health/")
    assert health["tool_isolation"] in ("strict", "process")


def test_a_tool_whose_process_dies_is_answered_with_what_is_known(on_ray: ServerProcess, engine: OpenAIDouble) -> None:
    client = Letta(base_url=on_ray.url, max_retries=0)
    agent = new_agent(client, SLOW, ROLL)
    engine.script(call("wait", {"seconds": 60}), text("Hm."))
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.agents.messages.create(agent.id, input="Wait.")))
    asked = len(engine.requests)
    asking.start()
    wait_for(lambda: len(engine.requests) > asked or None)
    time.sleep(1)
    for host in processes("ToolHost"):
        host.send_signal(signal.SIGKILL)
    asking.join(60)
    assert "may have taken effect" in returned(answers[0])
    engine.script(call("roll", {"sides": 4}), text("Four."))
    assert returned(client.agents.messages.create(agent.id, input="Roll.")) == "rolled 4"


def test_a_cancelled_tool_call_ends_in_its_process(on_ray: ServerProcess, engine: OpenAIDouble) -> None:
    client = Letta(base_url=on_ray.url, max_retries=0)
    agent = new_agent(client, SLOW)
    engine.script(call("wait", {"seconds": 60}))
    asked = len(engine.requests)
    run = client.agents.messages.create_async(agent.id, input="Wait.")
    wait_for(lambda: len(engine.requests) > asked or None)
    time.sleep(1)
    started = time.monotonic()
    client.agents.messages.cancel(agent.id, run_ids=[run.id])
    assert client.runs.retrieve(run.id).status == "cancelled"
    assert time.monotonic() - started < 30
    engine.script(text("Here."))
    assert client.agents.messages.create(agent.id, input="Still there?").messages[0].content == "Here."


def test_groups_are_made_in_the_clusters_processes_and_survive_their_death(
    on_ray: ServerProcess, engine: OpenAIDouble
) -> None:
    client = Letta(base_url=on_ray.url, max_retries=0)
    agent = new_agent(client)
    engine.default = lambda body: text("Well.", delay_s=0.5)
    try:
        body = {
            "agent_id": agent.id,
            "tasks": [{"turns": ["One?", "Two?"]} for _ in range(4)],
            "group_size": 3,
            "max_concurrency": 4,
            "rewards": [{"name": "length", "source_code": LENGTH}],
        }
        status, job = ask(on_ray, "POST", "/v1/rollouts", body)
        assert status == 201, job

        def some() -> Any:
            return ask(on_ray, "GET", f"/v1/rollouts/{job['id']}")[1]["counts"].get("completed") or None

        wait_for(some, within_s=90)
        hosts = processes("AttemptHost")
        assert len(hosts) == 2
        hosts[0].send_signal(signal.SIGKILL)
        done = ended(on_ray, job["id"], within_s=150)
        assert done["counts"] == {"completed": 12}, done
        assert [rollout["reward"] for rollout in done["rollouts"]] == [5.0] * 12
        for rollout in done["rollouts"]:
            history = client.agents.messages.list(rollout["agent_id"]).items
            said = [m.content for m in history if m.message_type in ("user_message", "assistant_message")]
            assert said == ["One?", "Well.", "Two?", "Well."]
    finally:
        engine.default = text("ok")


@pytest.fixture(scope="module")
def served(cluster: str) -> Iterator[str]:
    """The URL of two replicas on Ray Serve."""
    from ray import serve

    import perdure.ray

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(perdure.ray.application(replicas=2), route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def test_replicas_share_agents_runs_and_streams(served: str, engine: OpenAIDouble) -> None:
    client = Letta(base_url=served, max_retries=0)
    assert len(processes("ServeReplica")) == 2
    agent = new_agent(client, ROLL)
    engine.script(call("roll", {"sides": 6}), text("Six."))
    assert kinds(client.agents.messages.create(agent.id, input="Roll.").messages)[-1] == "assistant_message"
    engine.script(text("one two three", pieces=3, pause_s=0.3))
    frames = list(
        client.agents.messages.create(agent.id, input="Count.", streaming=True, stream_tokens=True, background=True)
    )
    run_id = next(frame.run_id for frame in frames if getattr(frame, "run_id", None))
    numbers = [frame.seq_id for frame in frames if getattr(frame, "seq_id", None)]
    for _ in range(4):  # whichever replica answers
        again = [f.seq_id for f in client.runs.messages.stream(run_id) if getattr(f, "seq_id", None)]
        assert again == numbers
    with pytest.raises(APIStatusError) as unknown:
        client.agents.retrieve("agent-00000000-0000-4000-8000-000000000000")
    assert unknown.value.status_code == 404


def test_what_a_replica_was_at_when_it_died_is_finished(served: str, engine: OpenAIDouble) -> None:
    client = Letta(base_url=served, max_retries=2)
    agents = [new_agent(client).id for _ in range(4)]
    engine.default = text("After all.", delay_s=3)
    try:
        asked = len(engine.requests)
        runs = [client.agents.messages.create_async(agent, input="Think.") for agent in agents]
        wait_for(lambda: len(engine.requests) >= asked + 4 or None)
        processes("ServeReplica")[0].send_signal(signal.SIGKILL)
        for run in runs:
            done = wait_for(lambda run=run: status_of(client, run.id), within_s=90)
            assert done == "completed"
    finally:
        engine.default = text("ok")


def status_of(client: Letta, run_id: str) -> str | None:
    try:
        status = client.runs.retrieve(run_id).status
    except APIStatusError:
        return None  # asked of the replica that is gone
    return None if status in ("created", "running") else status


def test_replicas_need_a_database_and_a_key_they_can_share() -> None:
    from perdure.ray import replica_settings

    with pytest.raises(SettingsError, match="PERDURE_DATABASE_URL"):
        replica_settings({})
    with pytest.raises(SettingsError, match="PERDURE_ENCRYPTION_KEY"):
        replica_settings({"PERDURE_DATABASE_URL": "postgresql://x/y"})


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, own_server: Callable[..., ServerProcess]) -> None:
    with pytest.raises(RuntimeError, match=r"127\.0\.0\.1:1.*cannot be reached"):
        own_server(PERDURE_RAY="127.0.0.1:1")
