"""What is kept of a run, and how it is found again."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from letta_client import APIStatusError, Letta, NotFoundError

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_resources import source, unique


@pytest.fixture
def told(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> Any:
    """(agent, run) of a run with a tool call and an answer."""
    tool = client.tools.create(source_code=source(unique("tool")))
    agent = new_agent(tool_ids=[tool.id])
    engine.script(call(tool.name, {"sides": 3}), text("three"))
    client.agents.messages.create(agent_id=agent.id, input="Roll it.")
    runs = list(client.runs.list(agent_id=agent.id))
    assert len(runs) == 1
    yield agent, runs[0], tool
    client.tools.delete(tool.id)


def test_a_run(client: Letta, told: Any) -> None:
    agent, run, _ = told
    found = client.runs.retrieve(run.id)
    assert found == run
    assert (run.agent_id, run.status, run.stop_reason, run.background) == (agent.id, "completed", "end_turn", False)
    assert run.created_at and run.completed_at and run.total_duration_ns and run.total_duration_ns > 0
    assert run.request_config.use_assistant_message is True
    for wanted in ({"statuses": ["completed"]}, {"stop_reason": "end_turn"}, {"background": False}):
        assert [each.id for each in client.runs.list(agent_id=agent.id, **wanted)] == [run.id]
    for wanted in ({"statuses": ["failed"]}, {"active": True}, {"background": True}, {"stop_reason": "error"}):
        assert list(client.runs.list(agent_id=agent.id, **wanted)) == []
    assert [each.id for each in client.runs.list(agent_id=agent.id, conversation_id=agent.id)] == [run.id]
    with pytest.raises(NotFoundError):
        client.runs.retrieve("run-unknown")
    state = client.agents.retrieve(agent.id)
    assert state.last_stop_reason == "end_turn" and state.last_run_completion is not None


def test_what_a_run_used_and_said(client: Letta, told: Any) -> None:
    _, run, _ = told
    usage = client.runs.usage.retrieve(run.id)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 10, 30)
    types = [message.message_type for message in client.runs.messages.list(run.id)]
    assert types == ["user_message", "tool_call_message", "tool_return_message", "assistant_message"]
    assert len(client.runs.trace.retrieve(run.id)) >= 3


def test_steps_of_a_run(client: Letta, told: Any) -> None:
    agent, run, _ = told
    steps = list(client.runs.steps.list(run.id, order="asc"))
    assert [(step.status, step.run_id, step.agent_id) for step in steps] == [("success", run.id, agent.id)] * 2
    assert steps[0].model_handle == "openai/gpt-test" and steps[0].total_tokens == 15
    step = client.steps.retrieve(steps[0].id)
    assert step == steps[0]
    metrics = client.steps.metrics.retrieve(step.id)
    assert metrics.id == step.id and metrics.llm_request_ns and metrics.llm_request_ns > 0
    trace = client.steps.trace.retrieve(step.id)
    assert trace is not None and trace.request_json["messages"][-1]["content"] == "Roll it."
    (choice,) = trace.response_json["choices"]  # the streamed answer as the whole one it stands for
    assert choice["message"]["tool_calls"][0]["function"]["name"] and choice["finish_reason"] == "tool_calls"
    kinds = [message.message_type for message in client.steps.messages.list(steps[1].id)]
    assert kinds == ["assistant_message"]


def test_feedback_on_a_step_is_found_again(client: Letta, told: Any) -> None:
    agent, run, _ = told
    step = next(iter(client.runs.steps.list(run.id)))
    given = client.steps.feedback.create(step.id, feedback="positive", tags=["good"])
    assert (given.feedback, given.tags) == ("positive", ["good"])
    for wanted in ({"feedback": "positive"}, {"has_feedback": True}, {"tags": ["good"]}):
        assert [each.id for each in client.steps.list(agent_id=agent.id, **wanted)] == [step.id]
    assert list(client.steps.list(agent_id=agent.id, feedback="negative")) == []
    assert len(list(client.steps.list(agent_id=agent.id, start_date="2020-01-01", end_date="2999-01-01"))) == 2
    assert list(client.steps.list(agent_id=agent.id, end_date="2020-01-01")) == []
    assert len(list(client.steps.list(agent_id=agent.id, model="gpt-test"))) == 2


def test_a_run_that_has_ended_can_be_deleted(server: ServerProcess, client: Letta, told: Any) -> None:
    agent, run, tool = told
    metrics = httpx.get(f"{server.url}/v1/runs/{run.id}/metrics").json()
    assert (metrics["num_steps"], metrics["tools_used"]) == (2, [tool.name])
    assert httpx.get(f"{server.url}/v1/runs/active", params={"agent_ids": [agent.id]}).json() == []
    assert httpx.delete(f"{server.url}/v1/runs/{run.id}").status_code == 200
    with pytest.raises(NotFoundError):
        client.runs.retrieve(run.id)
    assert len(list(client.agents.messages.list(agent.id))) > 0  # what was said stays


def test_a_wrong_status_is_named(client: Letta) -> None:
    with pytest.raises(APIStatusError, match="statuses"):
        client.runs.list(statuses=["odd"])


def system_of(engine: OpenAIDouble) -> str:
    return engine.requests[-1]["messages"][0]["content"]


def test_edits_by_people_reach_the_next_prompt(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(system="First.", memory_blocks=[{"label": "human", "value": "Ada"}])

    def prompt() -> str:
        client.agents.messages.create(agent_id=agent.id, input="Hi")
        return system_of(engine)

    assert prompt().startswith("First.") and "Ada" in system_of(engine)
    client.agents.update(agent.id, system="Second.")
    assert prompt().startswith("Second.")
    client.agents.blocks.update("human", agent_id=agent.id, value="Grace")
    assert "Grace" in prompt() and "Ada" not in system_of(engine)
    block = client.blocks.create(label="plans", value="sail away")
    client.agents.blocks.attach(block.id, agent_id=agent.id)
    assert "sail away" in prompt()
    client.blocks.update(block.id, value="stay here")
    assert "stay here" in prompt() and "sail away" not in system_of(engine)
    client.agents.blocks.detach(block.id, agent_id=agent.id)
    assert "stay here" not in prompt()
    shown = next(m for m in client.agents.messages.list(agent.id, order="asc") if m.message_type == "system_message")
    assert shown.content == system_of(engine)
    client.blocks.delete(block.id)


def test_a_prompt_is_stable_while_nothing_changes(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(memory_blocks=[{"label": "human", "value": "Ada"}])
    prompts = set()
    for _ in range(3):
        client.agents.messages.create(agent_id=agent.id, input="Hi")
        prompts.add(system_of(engine))
    client.agents.recompile(agent.id, dry_run=True)
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert prompts == {system_of(engine)}


def test_the_system_message_keeps_its_id(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(memory_blocks=[{"label": "human", "value": "Ada"}])
    client.agents.blocks.update("human", agent_id=agent.id, value="Grace")
    assert client.agents.retrieve(agent.id).message_ids == agent.message_ids
    assert "Grace" in client.agents.recompile(agent.id)


def test_an_initial_message_sequence_begins_the_history(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(
        initial_message_sequence=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there"}]
    )
    assert len(agent.message_ids) == 3
    types = [message.message_type for message in client.agents.messages.list(agent.id, order="asc")]
    assert types == ["system_message", "user_message", "assistant_message"]
