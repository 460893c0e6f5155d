"""`/metrics` as Prometheus asks for it, and steps found by their run's trace id."""

import urllib.request
from collections.abc import Callable
from typing import Any

from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, failure, text
from tests.e2e.conftest import ServerProcess


def test_metrics_are_served(own_server: Callable[..., ServerProcess], engine: OpenAIDouble) -> None:
    server = own_server(PERDURE_LIMITS="openai.concurrent=4")
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    engine.script(text("Hello."), failure(401, {"error": {"message": "no"}}))
    client.agents.messages.create(agent.id, input="Hi")
    run = client.agents.messages.create_async(agent.id, input="Hi")
    while client.runs.retrieve(run.id).status in ("created", "running"):
        pass
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        shown = answer.read().decode()
    assert 'perdure_runs_total{status="completed",stop_reason="end_turn"} 1.0' in shown
    assert 'perdure_errors_total{kind="llm_authentication"} 1.0' in shown
    assert 'perdure_tokens_total{kind="prompt",model="openai/gpt-test",provider="openai"} 10.0' in shown
    assert "perdure_runs_active " in shown and "perdure_runs_waiting 0.0" in shown
    assert 'perdure_model_calls{provider="openai",state="waiting"} 0.0' in shown
    assert "perdure_runs_queued 0.0" in shown
    statements = next(line for line in shown.splitlines() if line.startswith("perdure_database_statements_total "))
    assert float(statements.split()[1]) > 10
    assert "process_resident_memory_bytes" in shown


def test_a_step_carries_its_runs_trace_id(client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    engine.script(text("Hello."))
    answer = client.agents.messages.create(agent.id, input="Hi")
    step = client.steps.retrieve(answer.messages[0].step_id)
    assert step.trace_id == step.run_id.removeprefix("run-").replace("-", "")
