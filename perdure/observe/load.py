"""What the parts of a process say of their load, as Prometheus reads it: model calls by provider, and the database's work."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from perdure.providers.limits import Gate
from perdure.store.base import Work


def load_metrics(gates: Mapping[str, Gate], work: Work) -> Iterable[Metric]:
    """`gates`: those of the providers with limits, by name."""
    calls = GaugeMetricFamily(
        "perdure_model_calls", "Model calls of providers with limits, by what they do now", labels=("provider", "state")
    )
    for name, gate in gates.items():
        calls.add_metric((name, "running"), gate.in_flight)
        calls.add_metric((name, "waiting"), gate.waiting)
    yield calls
    yield CounterMetricFamily("perdure_database_statements", "Statements of transactions", value=work.statements)
    yield CounterMetricFamily(
        "perdure_database_seconds", "Time that transactions took the database", value=work.seconds
    )
