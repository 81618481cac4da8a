"""OpenTelemetry tracing: a span for each request, as a child of the client's span, sent to a collector.

The protocol is https://opentelemetry.io/docs/specs/otlp/ over HTTP. OpenTelemetry's environment variables set
everything else: ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS`` and others.
"""

from __future__ import annotations

from typing import Any

from fastserve_core.errors import MissingPackageError, OptionError

EXPORT_TIMEOUT_S = 3.0
"""Maximum delay of the server's end by an unreachable collector."""
EXCLUDED_PATHS = "/metrics,/v2/health/"


class Tracing:
    """Sends spans to a collector until it is closed.

    Args:
        collector: Address of the collector, as ``http://127.0.0.1:4318``.
    """

    def __init__(self, collector: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({SERVICE_NAME: "fastserve"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=collector.rstrip("/") + "/v1/traces", timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def middleware(self, app: Any) -> Any:
        """Wrap an ASGI application, so that each request has a span, except health checks and metrics."""
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(
            app, tracer_provider=self._provider, excluded_urls=EXCLUDED_PATHS, exclude_spans=["receive", "send"]
        )

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def make_tracing(collector: str | None, option: str) -> Tracing | None:
    """Create the tracing of a server.

    Args:
        collector: Address of the collector; ``None`` for no tracing.
        option: Name of the option, for the error.

    Raises:
        OptionError: The address is not an HTTP URL.
        MissingPackageError: OpenTelemetry is not installed.
    """
    if collector is None:
        return None
    if not collector.startswith(("http://", "https://")):
        raise OptionError(f"{option}={collector}: give the collector's address, as http://127.0.0.1:4318")
    try:
        return Tracing(collector)
    except ImportError as error:
        raise MissingPackageError(f"{option} needs {error.name}: pip install 'fastserve-core[tracing]'") from error
