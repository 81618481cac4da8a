"""OpenTelemetry: a span for each request, below the span of whoever asked, sent to a collector.

https://opentelemetry.io/docs/specs/otlp/ over HTTP. What else there is to set, OpenTelemetry's own environment
variables set: ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS`` and others.
"""

from __future__ import annotations

from typing import Any

from fastserve_core.errors import InvalidOption, MissingPackage

SEND_S = 3.0
"""What a collector that is away may hold up the server's end."""
NOT_TRACED = "/metrics,/v2/health/"


class Tracing:
    """Sends spans to ``collector`` until it is closed; ``wrap`` is a middleware."""

    def __init__(self, collector: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({SERVICE_NAME: "fastserve"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=collector.rstrip("/") + "/v1/traces", timeout=SEND_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def middleware(self, app: Any) -> Any:
        """The application with a span round each of its requests, but those that watch it."""
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(
            app, tracer_provider=self._provider, excluded_urls=NOT_TRACED, exclude_spans=["receive", "send"]
        )

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def make_tracing(collector: str | None, option: str) -> Tracing | None:
    """What traces to that address; raises ``InvalidOption`` or ``MissingPackage``."""
    if collector is None:
        return None
    if not collector.startswith(("http://", "https://")):
        raise InvalidOption(f"{option}={collector}: give the collector's address, as http://127.0.0.1:4318")
    try:
        return Tracing(collector)
    except ImportError as error:
        raise MissingPackage(f"{option} needs {error.name}: pip install 'fastserve-core[tracing]'") from error
