"""Spans reach a collector as OpenTelemetry's protocol has them, below the span of whoever asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import MissingPackageError, OptionError
from fastserve_server.application import build_application
from fastserve_server.options import ServingOptions
from fastserve_server.service import Service
from fastserve_server.tests.test_application import Held, client_of
from fastserve_server.tracing import make_tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """The address of a collector, and what it was sent."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def test_each_request_is_a_span(
    classifier: Artifact, collector: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, got = collector
    engine = Held()
    engine.go.set()
    monkeypatch.setattr(Service, "_make_worker", lambda self: engine)

    async def run() -> None:
        application = build_application(classifier.folder, ServingOptions(workers=1, otlp_endpoint=address), threads=1)
        async with client_of(application) as client:
            for path in ("/metrics", "/v2/health/ready"):
                await client.get(path)
            above = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = await client.post("/predict", json={"inputs": ["a film"]}, headers=above)
            assert answer.status_code == 200
            assert (await client.post("/predict", content=b"{")).status_code == 400

    asyncio.run(asyncio.wait_for(run(), 30))
    (sent,) = [one for request in got for one in request.resource_spans]
    resource = {one.key: one.value.string_value for one in sent.resource.attributes}
    assert resource["service.name"] == "fastserve"
    asked, refused = [span for scope in sent.scope_spans for span in scope.spans]
    assert asked.name == refused.name == "POST /predict"
    assert (asked.trace_id.hex(), asked.parent_span_id.hex()) == (TRACE, PARENT)
    assert refused.trace_id != asked.trace_id
    statuses = [one.value.int_value for span in (asked, refused) for one in span.attributes if "status" in one.key]
    assert statuses == [200, 400]


def test_a_collector_that_is_away_does_not_hold_up_the_end() -> None:
    away = make_tracing("http://127.0.0.1:1", "serve.otlp_endpoint")
    assert away is not None
    with away._provider.get_tracer("test").start_as_current_span("asked"):
        pass
    begin = time.monotonic()
    away.close()
    assert time.monotonic() - begin < 6


def test_invalid_addresses_are_refused() -> None:
    with pytest.raises(OptionError, match=r"serve\.otlp_endpoint=localhost: give the collector's address"):
        make_tracing("localhost", "serve.otlp_endpoint")
    assert make_tracing(None, "serve.otlp_endpoint") is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(
        MissingPackageError, match=r"serve\.otlp_endpoint needs .*: pip install 'fastserve-core\[tracing\]'"
    ):
        make_tracing("http://127.0.0.1:4318", "serve.otlp_endpoint")
