"""Puts together what the environment asks for: OpenTelemetry by its own OTEL_ variables, Sentry by SENTRY_DSN.

Nothing is imported that was not asked for.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from perdure.core.errors import AgentError

if TYPE_CHECKING:
    from perdure.core.runs import Run
    from perdure.observe.tracing import Tracing
    from perdure.store.commits import StepCommit

Observer = Callable[["Run", "StepCommit"], None]


class Exports:
    """`observers` are told of every commit; `close` sends what is still held."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self.tracing: Tracing | None = None
        self._providers: list[Any] = []

    def close(self) -> None:
        for provider in self._providers:
            provider.shutdown()


def exports(env: Mapping[str, str]) -> Exports:
    """AgentError where something is asked for whose package is not installed."""
    made = Exports()
    if dsn := env.get("SENTRY_DSN"):
        _sentry(dsn, env)
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return made
    if env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        _telemetry(made, env)
    return made


def _telemetry(made: Exports, env: Mapping[str, str]) -> None:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise AgentError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: pip install 'perdure[observe]'."
        ) from error
    from perdure import __version__
    from perdure.observe.tracing import RunIds, Tracing

    resource = Resource.create(
        {"service.name": env.get("OTEL_SERVICE_NAME", "perdure"), "service.version": __version__}
    )
    ids = RunIds()
    traces = TracerProvider(resource=resource, id_generator=ids)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = None
    if env.get("OTEL_METRICS_EXPORTER", "otlp") != "none":
        meters = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())])
        made._providers.append(meters)
    made._providers.append(traces)
    made.tracing = Tracing(traces, ids, meters)
    made.observers.append(made.tracing.committed)


def _sentry(dsn: str, env: Mapping[str, str]) -> None:
    try:
        import sentry_sdk
    except ImportError as error:
        raise AgentError("SENTRY_DSN is set, and Sentry is not installed: pip install 'perdure[sentry]'.") from error
    from perdure import __version__

    # no request bodies and no local variables: both hold what users said
    sentry_sdk.init(
        dsn=dsn,
        release=f"perdure@{__version__}",
        environment=env.get("SENTRY_ENVIRONMENT"),
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
    )
