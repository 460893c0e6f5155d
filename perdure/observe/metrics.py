"""Counters and timings of runs, model calls and tools, as Prometheus reads them from `/metrics`.

Invariant: what is counted is committed; a step that was lost, or written by nobody, is not in here.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from perdure.core.runs import Run, Step
from perdure.store.commits import StepCommit

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """`gauges`: name -> (help, how to read it now). `read`: what else there is to tell, asked each time."""

    def __init__(
        self,
        gauges: dict[str, tuple[str, Callable[[], float]]] | None = None,
        read: Callable[[], Iterable[Metric]] | None = None,
    ) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        model = ("provider", "model")
        self._runs = Counter("perdure_runs", "Runs that ended", ("status", "stop_reason"), registry=registry)
        self._run_seconds = Histogram(
            "perdure_run_seconds", "From start to end of a run", buckets=SECONDS, registry=registry
        )
        self._steps = Counter("perdure_steps", "Model calls that were committed", (*model, "status"), registry=registry)
        self._call_seconds = Histogram(
            "perdure_model_call_seconds", "Duration of model calls", model, buckets=SECONDS, registry=registry
        )
        self._first_seconds = Histogram(
            "perdure_time_to_first_token_seconds", "Until a model answered", model, buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("perdure_tokens", "Tokens of model calls", (*model, "kind"), registry=registry)
        self._tools = Counter(
            "perdure_tool_calls", "Tool calls that were answered", ("tool", "status"), registry=registry
        )
        self._tool_seconds = Histogram(
            "perdure_tools_seconds", "Duration of a step's tools", buckets=SECONDS, registry=registry
        )
        self._errors = Counter("perdure_errors", "Steps and runs that failed", ("kind",), registry=registry)
        self._of_model: dict[tuple[str, str], _OfModel] = {}
        for name, (about, value) in (gauges or {}).items():
            Gauge(name, about, registry=registry).set_function(value)
        if read is not None:
            registry.register(_Read(read))

    def committed(self, run: Run, commit: StepCommit) -> None:
        if (step := commit.step) is not None:
            self._step(step)
        for message in commit.messages:
            for answer in message.tool_returns:
                self._tools.labels(answer.name or "unknown", answer.status).inc()
        if (end := commit.end) is not None:
            self._runs.labels(end.status, end.stop_reason).inc()
            self._run_seconds.observe(end.total_duration_ns / 1e9)
            if end.error is not None:
                self._errors.labels(str(end.error.get("type"))).inc()

    def _step(self, step: Step) -> None:
        key = (step.provider_name or "unknown", step.model_handle or step.model or "unknown")
        of = self._of_model.get(key)
        if of is None:
            of = self._of_model[key] = _OfModel(self, *key)
        of.succeeded.inc() if step.status == "success" else self._steps.labels(*key, step.status).inc()
        if step.llm_request_ns is not None:
            of.seconds.observe(step.llm_request_ns / 1e9)
        if step.ttft_ns is not None:
            of.first.observe(step.ttft_ns / 1e9)
        usage = step.usage
        of.prompt.inc(usage.prompt_tokens)
        of.completion.inc(usage.completion_tokens)
        if usage.cached_input_tokens:
            of.cached.inc(usage.cached_input_tokens)
        if usage.reasoning_tokens:
            of.reasoning.inc(usage.reasoning_tokens)
        if step.tool_execution_ns is not None:
            self._tool_seconds.observe(step.tool_execution_ns / 1e9)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Read(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


class _OfModel:
    """One model's metrics, looked up once: labels cost more than counting."""

    __slots__ = ("cached", "completion", "first", "prompt", "reasoning", "seconds", "succeeded")

    def __init__(self, metrics: Metrics, provider: str, model: str) -> None:
        tokens = metrics._tokens
        self.succeeded = metrics._steps.labels(provider, model, "success")
        self.seconds = metrics._call_seconds.labels(provider, model)
        self.first = metrics._first_seconds.labels(provider, model)
        self.prompt = tokens.labels(provider, model, "prompt")
        self.completion = tokens.labels(provider, model, "completion")
        self.cached = tokens.labels(provider, model, "cached")
        self.reasoning = tokens.labels(provider, model, "reasoning")
