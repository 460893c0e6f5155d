"""Two servers on one PostgreSQL: a run started on one is followed, cancelled and finished on the other."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.doubles.postgres import PostgresProcess, binaries
from tests.doubles.redis import RedisProcess, redis_server
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_approvals import SEND, approve, ask, history
from tests.e2e.test_messages import ROLL, kinds

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")]


@pytest.fixture
def pair(postgres: PostgresProcess, own_server: Callable[..., ServerProcess]) -> tuple[ServerProcess, ServerProcess]:
    url = postgres.fresh()
    return own_server(PERDURE_DATABASE_URL=url), own_server(PERDURE_DATABASE_URL=url)


def sdk(server: ServerProcess) -> Letta:
    return Letta(base_url=server.url, max_retries=0)


def wait_for(what: Callable[[], Any], within_s: float = 20.0) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if (found := what()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def new_agent(client: Letta, **fields: Any) -> Any:
    return client.agents.create(model="openai/gpt-test", include_base_tools=False, **fields)


def test_an_agent_answers_on_either_server_with_one_history(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble
) -> None:
    a, b = map(sdk, pair)
    tool = a.tools.upsert(source_code=ROLL)
    agent = new_agent(a, tool_ids=[tool.id], memory_blocks=[{"label": "human", "value": "Ann"}])
    engine.script(call("roll", {"sides": 6}), text("Six."), text("It was six."))
    assert kinds(a.agents.messages.create(agent.id, input="Roll.").messages)[-1] == "assistant_message"
    b.agents.messages.create(agent.id, input="What was it?")
    sent = [(m["role"], m.get("content")) for m in engine.requests[-1]["messages"][1:]]
    assert [role for role, _ in sent] == ["user", "assistant", "tool", "assistant", "user"]
    assert b.agents.blocks.retrieve("human", agent_id=agent.id).value == "Ann"
    assert kinds(a.agents.messages.list(agent.id).items) == kinds(b.agents.messages.list(agent.id).items)


def test_started_on_one_followed_and_cancelled_on_the_other(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble
) -> None:
    a, b = map(sdk, pair)
    agent = new_agent(a)
    engine.script(text("slow", delay_s=30))
    run = a.agents.messages.create_async(agent.id, input="Think long.")
    wait_for(lambda: b.runs.retrieve(run.id).status == "running" or None)
    started = time.monotonic()
    b.agents.messages.cancel(agent.id, run_ids=[run.id])
    assert b.runs.retrieve(run.id).status == "cancelled"
    assert time.monotonic() - started < 3
    engine.script(text("Ready."))
    assert b.agents.messages.create(agent.id, input="Still there?").messages[0].content == "Ready."


def test_a_follower_on_the_other_server_sees_every_event_once(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble
) -> None:
    a, b = map(sdk, pair)
    tool = a.tools.upsert(source_code=ROLL)
    agent = new_agent(a, tool_ids=[tool.id])
    engine.script(call("roll", {"sides": 6}), text("Six.", delay_s=1.0))
    run = a.agents.messages.create_async(agent.id, input="Roll.")
    followed = list(b.runs.messages.stream(run.id, starting_after=0))
    seqs = [frame.seq_id for frame in followed if getattr(frame, "seq_id", None)]
    assert seqs == list(range(1, len(seqs) + 1))
    shown = [frame.message_type for frame in followed if frame.message_type.endswith("message")]
    assert shown == ["tool_call_message", "tool_return_message", "assistant_message"]
    assert followed[-1].message_type == "usage_statistics"


def test_a_message_queued_behind_a_run_of_the_other_server_is_answered(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble
) -> None:
    a, b = map(sdk, pair)
    agent = new_agent(a)
    engine.script(text("First.", delay_s=1.5), text("Second."))
    run = a.agents.messages.create_async(agent.id, input="One")
    wait_for(lambda: a.runs.retrieve(run.id).status == "running" or None)
    assert b.agents.messages.create(agent.id, input="Two").messages[0].content == "Second."
    assert a.runs.retrieve(run.id).status == "completed"


def test_a_conversation_is_one_on_both_servers(pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble) -> None:
    a, b = map(sdk, pair)
    tool = a.tools.list(name="memory_insert").items[0]
    agent = new_agent(a, tool_ids=[tool.id], memory_blocks=[{"label": "human", "value": "Ann"}])
    own = {"isolated_block_labels": ["human"]}
    one, two = (a.conversations.create(agent_id=agent.id, extra_body=own).id for _ in range(2))
    engine.script(call("memory_insert", {"label": "human", "new_string": "likes tea"}), text("Noted.", delay_s=1.5))
    began = a.conversations.messages.create(one, input="I like tea")
    run_id = next(iter(began)).run_id
    with pytest.raises(APIStatusError) as busy:
        list(b.conversations.messages.create(one, input="Me too"))
    assert busy.value.status_code == 409 and busy.value.body["run_id"] == run_id  # type: ignore[index]
    followed = [event.message_type for event in b.conversations.messages.stream(one)]
    began.close()
    assert followed[-3:] == ["assistant_message", "stop_reason", "usage_statistics"]
    engine.script(text("Yes."), text("No."))
    list(b.conversations.messages.create(one, input="Do I?"))
    assert "likes tea" in engine.requests[-1]["messages"][0]["content"]
    forked = b.conversations.fork(one).id
    list(a.conversations.messages.create(two, input="Do I?"))
    assert "likes tea" not in engine.requests[-1]["messages"][0]["content"]
    assert kinds(a.conversations.messages.list(forked).items)[::-1] == kinds(
        b.conversations.messages.list(one, order="asc").items
    )
    b.agents.delete(agent.id)
    with pytest.raises(APIStatusError):
        a.conversations.retrieve(forked)


def test_a_dead_servers_run_is_finished_by_the_other(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble
) -> None:
    a, b = pair
    tool = sdk(a).tools.upsert(source_code=ROLL)
    agent = new_agent(sdk(a), tool_ids=[tool.id])
    engine.script(call("roll", {"sides": 6}), text("lost", delay_s=60), text("Six."))
    run = sdk(a).agents.messages.create_async(agent.id, input="Roll.")
    frames: list[Any] = []

    def follow() -> None:
        frames.extend(sdk(b).runs.messages.stream(run.id, starting_after=0))

    follower = threading.Thread(target=follow)
    follower.start()
    wait_for(lambda: len(engine.requests) >= 2 or None)
    killed = time.monotonic()
    a.kill()
    follower.join(20)
    assert not follower.is_alive()
    assert time.monotonic() - killed < 15
    assert sdk(b).runs.retrieve(run.id).status == "completed"
    shown = [frame.message_type for frame in frames if frame.message_type.endswith("message")]
    assert shown == ["tool_call_message", "tool_return_message", "assistant_message"]
    assert sum("roll" in str(m.get("tool_calls")) for m in engine.requests[-1]["messages"]) == 1


@pytest.mark.parametrize("alive", [True, False], ids=["both-up", "the-first-killed"])
def test_what_one_server_asks_approval_for_is_answered_through_the_other(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble, alive: bool
) -> None:
    a, b = map(sdk, pair)
    tool = a.tools.upsert(source_code=SEND, default_requires_approval=True)
    agent = new_agent(a, tool_ids=[tool.id])
    asked = ["user_message", "approval_request_message"]
    answered = ["approval_response_message", "tool_return_message", "assistant_message"]
    expected: list[str] = []
    for approved, outcome in ((True, "sent 5"), (False, "too much")):
        call_id = f"call_{approved}"
        assert ask(a, engine, agent, id=call_id).stop_reason.stop_reason == "requires_approval"
        if not alive:
            pair[0].kill()
        waiting = b.agents.retrieve(agent.id, include=["agent.pending_approval"]).pending_approval
        assert waiting is not None and waiting.tool_call.tool_call_id == call_id
        with pytest.raises(APIStatusError, match="PENDING_APPROVAL"):
            b.agents.messages.create(agent.id, input="Hm?")
        engine.script(text("Done."))
        answer = b.agents.messages.create(agent.id, messages=approve(call_id, approved, reason="too much"))
        assert kinds(answer.messages) == answered[1:] and outcome in answer.messages[0].tool_return
        assert answer.messages[0].step_id == waiting.step_id
        expected += [*asked, *answered]
        if not alive:
            pair[0].start()
        assert history(a, agent) == history(b, agent) == expected
    for client in (a, b):
        client.agents.messages.create(agent.id, input="Thanks.")
        check_calls_are_answered(engine.requests[-1]["messages"])
    assert history(a, agent) == history(b, agent) == [*expected, *["user_message", "assistant_message"] * 2]


def check_calls_are_answered(sent: list[dict[str, Any]]) -> None:
    """Each call of a prompt has its return right after it, and there are two of them."""
    roles = [message["role"] for message in sent]
    assert roles[:9] == ["system", *["user", "assistant", "tool", "assistant"] * 2]
    assert [message["tool_call_id"] for message in sent if message["role"] == "tool"] == [
        each["id"] for message in sent for each in message.get("tool_calls", ())
    ]


def test_an_approval_whose_server_is_killed_while_it_is_carried_out_ends_on_the_other(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble
) -> None:
    """The tool has run and the model is asked again: the call is not repeated, the run goes on."""
    a, b = map(sdk, pair)
    tool = a.tools.upsert(source_code=SEND, default_requires_approval=True)
    agent = new_agent(a, tool_ids=[tool.id])
    ask(a, engine, agent)
    engine.script(text("lost", delay_s=60), text("Paid."))
    before = len(engine.requests)
    run = a.agents.messages.create_async(agent.id, messages=approve("call_1"))
    wait_for(lambda: len(engine.requests) > before or None)
    pair[0].kill()
    wait_for(lambda: b.runs.retrieve(run.id).status == "completed" or None, 30)
    expected = ["approval_response_message", "tool_return_message", "assistant_message"]
    assert history(b, agent) == ["user_message", "approval_request_message", *expected]
    told = [frame.message_type for frame in b.runs.messages.stream(run.id, starting_after=0)]
    assert [kind for kind in told if kind.endswith("_message")] == expected[1:]
    assert [message["role"] for message in engine.requests[-1]["messages"]] == ["system", "user", "assistant", "tool"]


def test_a_restart_of_the_database_is_survived(own_server: Callable[..., ServerProcess], engine: OpenAIDouble) -> None:
    folder = binaries()
    assert folder is not None
    postgres = PostgresProcess(folder)
    try:
        outlive_a_restart(postgres, own_server, engine)
    finally:
        postgres.close()


def outlive_a_restart(
    postgres: PostgresProcess, own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    client = sdk(own_server(PERDURE_DATABASE_URL=postgres.url()))
    tool = client.tools.upsert(source_code=ROLL)
    agent = new_agent(client, tool_ids=[tool.id])
    engine.script(call("roll", {"sides": 6}), text("Six.", delay_s=1.0))
    run = client.agents.messages.create_async(agent.id, input="Roll.")
    wait_for(lambda: len(engine.requests) >= 2 or None)
    postgres.kill()
    time.sleep(2)
    postgres.start()
    wait_for(lambda: client.runs.retrieve(run.id).status == "completed" or None, 30)
    assert kinds(client.runs.messages.list(run.id).items) == [
        "user_message",
        "tool_call_message",
        "tool_return_message",
        "assistant_message",
    ]


def test_a_batch_handed_in_at_one_is_finished_by_the_other(
    pair: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble
) -> None:
    a, b = map(sdk, pair)
    agents = [new_agent(a).id for _ in range(3)]
    engine.default = lambda body: text(f"You said {body['messages'][-1]['content']}.", delay_s=0.3)
    try:
        requests = [{"agent_id": agents[at % 3], "input": str(at)} for at in range(12)]
        batch: Any = a.post("/v1/messages/batches", cast_to=object, body={"requests": requests})
        path = f"/v1/messages/batches/{batch['id']}"

        def completed(least: int) -> Any:
            job: Any = b.get(path, cast_to=object)
            return job if job["metadata"]["request_counts"]["completed"] >= least else None

        wait_for(lambda: completed(2))
        pair[0].kill()
        job = wait_for(lambda: completed(12), within_s=60)
        assert job["status"] == "completed"
        for at, agent in enumerate(agents):
            said = [m for m in b.agents.messages.list(agent).items if m.message_type == "user_message"]
            assert [m.content for m in said] == [str(number) for number in range(at, 12, 3)]
    finally:
        engine.default = text("ok")


@pytest.mark.skipif(redis_server() is None, reason="no Redis here")
def test_followers_on_the_other_server_are_fed_by_redis_and_outlive_its_loss(
    postgres: PostgresProcess, own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    program = redis_server()
    assert program is not None
    redis = RedisProcess(program)
    try:
        env = {"PERDURE_DATABASE_URL": postgres.fresh(), "PERDURE_REDIS_URL": redis.url}
        a, b = sdk(own_server(**env)), sdk(own_server(**env))
        agent = new_agent(a, tool_ids=[a.tools.upsert(source_code=ROLL).id])
        for lost in (False, True):
            engine.script(call("roll", {"sides": 6}), text("Six.", delay_s=1.0))
            run = a.agents.messages.create_async(agent.id, input="Roll.")
            if lost:
                redis.kill()
            frames = list(b.runs.messages.stream(run.id, starting_after=0))
            seqs = [frame.seq_id for frame in frames if getattr(frame, "seq_id", None)]
            assert seqs == list(range(1, len(seqs) + 1))
            shown = [frame.message_type for frame in frames if frame.message_type.endswith("message")]
            assert shown == ["tool_call_message", "tool_return_message", "assistant_message"]
    finally:
        redis.close()
