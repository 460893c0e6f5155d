"""Runs as OpenTelemetry traces, by the GenAI semantic conventions: a run is a trace, its model calls and tools are spans of it.

Invariant: a run's trace id is the run's own uuid, on every server that works on it, so steps and spans find each other.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.metrics import Histogram, Meter, MeterProvider
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, Status, StatusCode

from perdure import __version__
from perdure.core.ids import trace_id_of
from perdure.core.runs import Run, Step
from perdure.store.commits import StepCommit

KEPT_RUNS = 10_000
# The bounds that the conventions ask for.
SECONDS = tuple(0.01 * 2**step for step in range(14))
TOKENS = tuple(float(4**step) for step in range(14))


class RunIds(RandomIdGenerator):
    """Gives the next root span the trace id that was set for it."""

    next_trace_id: int | None = None

    def generate_trace_id(self) -> int:
        wanted, self.next_trace_id = self.next_trace_id, None
        return wanted if wanted is not None else super().generate_trace_id()


def _histogram(meter: Meter, name: str, unit: str, bounds: Sequence[float]) -> Histogram:
    return meter.create_histogram(name, unit=unit, explicit_bucket_boundaries_advisory=bounds)


class Tracing:
    """`provider`: made with a `RunIds` generator. `meters`: where token counts and durations go; None: nowhere."""

    def __init__(self, provider: TracerProvider, ids: RunIds, meters: MeterProvider | None = None) -> None:
        self._tracer = provider.get_tracer("perdure", __version__)
        self._ids = ids
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._durations: Histogram | None = None
        self._first: Histogram | None = None
        self._tokens: Histogram | None = None
        if meters is not None:
            meter = meters.get_meter("perdure", __version__)
            self._durations = _histogram(meter, "gen_ai.client.operation.duration", "s", SECONDS)
            self._first = _histogram(meter, "gen_ai.client.operation.time_to_first_chunk", "s", SECONDS)
            self._tokens = _histogram(meter, "gen_ai.client.token.usage", "{token}", TOKENS)

    def committed(self, run: Run, commit: StepCommit) -> None:
        span = self._open.get(run.id) or self._begin(run)
        within = trace.set_span_in_context(span)
        if (step := commit.step) is not None:
            self._model_call(step, within)
            self._tools(step, commit, within)
        if (end := commit.end) is not None:
            span.set_attribute("perdure.stop_reason", end.stop_reason)
            span.set_attribute("gen_ai.usage.input_tokens", commit.usage.prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", commit.usage.completion_tokens)
            if end.error is not None:
                _failed(span, str(end.error.get("type")), str(end.error.get("message")))
            span.end(end_time=end.completed_us * 1000)
            self._open.pop(run.id, None)

    def _begin(self, run: Run) -> Any:
        self._ids.next_trace_id = int(trace_id_of(run.id), 16)
        span = self._tracer.start_span(
            f"invoke_agent {run.agent_id}",
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            kind=SpanKind.INTERNAL,
            start_time=run.created_us * 1000,
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.id": run.agent_id,
                "gen_ai.conversation.id": run.conversation_id,
                "perdure.run.id": run.id,
            },
        )
        self._open[run.id] = span
        if len(self._open) > KEPT_RUNS:  # a run that was taken over ends elsewhere
            self._open.popitem(last=False)
        return span

    def _model_call(self, step: Step, within: Any) -> None:
        model = step.model or step.model_handle or "unknown"
        about: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": step.provider_name or "unknown",
            "gen_ai.request.model": step.model_handle or model,
            "gen_ai.response.model": model,
        }
        usage = step.usage
        start = step.llm_request_start_ns or step.created_us * 1000
        span = self._tracer.start_span(
            f"chat {model}",
            context=within,
            kind=SpanKind.CLIENT,
            start_time=start,
            attributes={
                **about,
                "gen_ai.conversation.id": step.conversation_id,
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "perdure.step.id": step.id,
                **({"gen_ai.response.time_to_first_chunk": step.ttft_ns / 1e9} if step.ttft_ns is not None else {}),
                **({"server.address": step.model_endpoint} if step.model_endpoint else {}),
            },
        )
        if step.status == "failed":
            _failed(span, step.error_type or "error", str((step.error_data or {}).get("message", "")))
            about["error.type"] = step.error_type or "error"
        span.end(end_time=start + (step.llm_request_ns or 0))
        if self._durations is not None and self._tokens is not None and self._first is not None:
            self._durations.record((step.llm_request_ns or 0) / 1e9, about)
            if step.ttft_ns is not None:
                self._first.record(step.ttft_ns / 1e9, about)
            self._tokens.record(usage.prompt_tokens, {**about, "gen_ai.token.type": "input"})
            self._tokens.record(usage.completion_tokens, {**about, "gen_ai.token.type": "output"})

    def _tools(self, step: Step, commit: StepCommit, within: Any) -> None:
        """The tools of a step share its tool time: it is measured once for all of them."""
        start = (step.llm_request_start_ns or step.created_us * 1000) + (step.llm_request_ns or 0)
        for message in commit.messages:
            for answer in message.tool_returns:
                span = self._tracer.start_span(
                    f"execute_tool {answer.name}",
                    context=within,
                    kind=SpanKind.INTERNAL,
                    start_time=start,
                    attributes={
                        "gen_ai.operation.name": "execute_tool",
                        "gen_ai.tool.name": answer.name,
                        "gen_ai.tool.call.id": answer.tool_call_id,
                    },
                )
                if answer.status == "error":
                    _failed(span, "tool_error", "")
                span.end(end_time=start + (step.tool_execution_ns or 0))


def _failed(span: "Span | Any", kind: str, message: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message[:500]))
