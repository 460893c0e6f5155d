"""Metrics and traces of committed steps, as Prometheus and an OpenTelemetry collector see them."""

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure.core.errors import AgentError
from perdure.core.ids import new_id, trace_id_of
from perdure.core.messages import Message, ToolReturn
from perdure.core.runs import Run, RunConfig, Step, Usage
from perdure.observe.metrics import Metrics
from perdure.observe.setup import exports
from perdure.observe.tracing import RunIds, Tracing
from perdure.store.commits import RunEnd, StepCommit
from perdure.store.runs import Lease

START = 1_700_000_000_000_000


def a_run() -> Run:
    return Run(
        id=new_id("run"),
        agent_id="agent-1",
        conversation_id="conv-1",
        status="running",
        created_us=START,
        config=RunConfig(),
    )


def a_step(run: Run, **fields: Any) -> Step:
    return Step(
        **{
            "id": new_id("step"),
            "run_id": run.id,
            "agent_id": "agent-1",
            "conversation_id": "conv-1",
            "created_us": START,
            "status": "success",
            "provider_name": "openai",
            "model": "gpt-test",
            "model_handle": "openai/gpt-test",
            "usage": Usage(10, 5, 15, cached_input_tokens=4, reasoning_tokens=2),
            "llm_request_start_ns": START * 1000,
            "llm_request_ns": 2_000_000_000,
            "ttft_ns": 500_000_000,
            "tool_execution_ns": 250_000_000,
            **fields,
        }
    )


def commit(run: Run, step: Step | None, *answers: ToolReturn, end: RunEnd | None = None) -> StepCommit:
    said = Message(id=new_id("message"), role="tool", created_us=START, tool_returns=answers)
    return StepCommit(
        lease=Lease("conv-1", run.id, "me", 1),
        agent_id="agent-1",
        now=START,
        usage=Usage(10, 5, 15),
        step_count=1,
        messages=(said,) if answers else (),
        step=step,
        end=end,
    )


def ended(reason: Any = "end_turn", **fields: Any) -> RunEnd:
    return RunEnd(
        **{
            "status": "completed",
            "stop_reason": reason,
            "completed_us": START + 3_000_000,
            "total_duration_ns": 3_000_000_000,
            **fields,
        }
    )


ROLLED = ToolReturn("call_1", "roll", "success", "6")
BROKE = ToolReturn("call_2", "roll", "error", "no")


def test_metrics_count_what_was_committed() -> None:
    metrics = Metrics({"perdure_runs_active": ("Runs now", lambda: 3)})
    run = a_run()
    metrics.committed(run, commit(run, a_step(run), ROLLED, BROKE))
    metrics.committed(run, commit(run, a_step(run), end=ended()))
    text = metrics.text().decode()
    model = 'model="openai/gpt-test",provider="openai"'
    for line in (
        f'perdure_steps_total{{{model},status="success"}} 2.0',
        f'perdure_tokens_total{{kind="prompt",{model}}} 20.0',
        f'perdure_tokens_total{{kind="cached",{model}}} 8.0',
        f"perdure_time_to_first_token_seconds_sum{{{model}}} 1.0",
        f"perdure_model_call_seconds_count{{{model}}} 2.0",
        'perdure_tool_calls_total{status="error",tool="roll"} 1.0',
        'perdure_runs_total{status="completed",stop_reason="end_turn"} 1.0',
        "perdure_runs_active 3.0",
    ):
        assert line in text, line


def test_a_run_is_one_trace_whose_id_is_its_own() -> None:
    ids, spans, reader = RunIds(), InMemorySpanExporter(), InMemoryMetricReader()
    traces = TracerProvider(id_generator=ids)
    traces.add_span_processor(SimpleSpanProcessor(spans))
    tracing = Tracing(traces, ids, MeterProvider(metric_readers=[reader]))
    run, other = a_run(), a_run()
    tracing.committed(run, commit(run, a_step(run), ROLLED))
    tracing.committed(other, commit(other, a_step(other), end=ended()))
    failed = a_step(run, status="failed", error_type="llm_timeout", error_data={"message": "too slow"})
    error = {"type": "llm_timeout", "message": "too slow"}
    tracing.committed(run, commit(run, failed, end=ended("llm_api_error", status="failed", error=error)))
    mine = [span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == trace_id_of(run.id)]
    assert [span.name for span in mine] == [
        "chat gpt-test",
        "execute_tool roll",
        "chat gpt-test",
        "invoke_agent agent-1",
    ]
    whole = mine[-1]
    assert whole.parent is None
    assert all(span.parent is not None and span.parent.span_id == whole.context.span_id for span in mine[:-1])
    call = mine[0]
    assert call.attributes is not None and call.attributes["gen_ai.usage.input_tokens"] == 10
    assert call.attributes["gen_ai.provider.name"] == "openai"
    assert (call.start_time, call.end_time) == (START * 1000, START * 1000 + 2_000_000_000)
    assert mine[2].attributes is not None and mine[2].attributes["error.type"] == "llm_timeout"
    data = reader.get_metrics_data()
    assert data is not None
    names = {metric.name for held in data.resource_metrics for scope in held.scope_metrics for metric in scope.metrics}
    first = "gen_ai.client.operation.time_to_first_chunk"
    assert names == {"gen_ai.client.operation.duration", "gen_ai.client.token.usage", first}
    assert call.attributes["gen_ai.response.time_to_first_chunk"] == 0.5


def test_nothing_is_set_up_that_was_not_asked_for() -> None:
    assert exports({}).observers == []
    assert exports({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}).observers == []
    made = exports({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"})
    assert len(made.observers) == 1


def test_what_is_asked_for_and_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(AgentError, match=r"perdure\[sentry\]"):
        exports({"SENTRY_DSN": "http://key@127.0.0.1/1"})
