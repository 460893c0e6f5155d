"""What a server tells of itself: metrics for Prometheus, traces and metrics for OpenTelemetry, errors for Sentry."""
