"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
UNMATCHED = "unmatched"
"""Path label of requests for unknown paths, so that clients cannot create new series."""


class Metrics:
    """Metrics of one application, in their own registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("fastserve_requests", "Answered requests", ["path", "status"], registry=registry)
        self._latency = Histogram(
            "fastserve_request_seconds",
            "Seconds from a request's first byte to its answer",
            ["path"],
            buckets=LATENCIES,
            registry=registry,
        )
        self._queue = Gauge("fastserve_queue_depth", "Inputs that wait for an engine", registry=registry)
        self._sizes = Histogram("fastserve_batch_size", "Inputs in an engine pass", buckets=SIZES, registry=registry)
        self._engine = Histogram(
            "fastserve_engine_seconds", "Seconds of an engine pass", buckets=LATENCIES, registry=registry
        )

        self._tokens = Counter("fastserve_tokens", "Tokens read and generated", ["kind"], registry=registry)
        self._series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Read the queue depth from a function whenever the metrics are exported."""
        self._queue.set_function(depth)

    def watch_candidate(
        self, answers: Mapping[str, int], is_active: Callable[[], float], slowdown: Callable[[], float]
    ) -> None:
        """Read the candidate's comparison whenever the metrics are exported.

        Args:
            answers: Number of answers by result of the comparison; updated by the caller.
            is_active: Returns 1 until the candidate is rolled back, then 0.
            slowdown: Returns the ratio of the candidate's median time to the model's.
        """
        results = Gauge("fastserve_candidate_answers", "Candidate answers by result", ["kind"], registry=self.registry)
        for kind in answers:
            results.labels(kind).set_function(partial(answers.__getitem__, kind))
        active = Gauge("fastserve_candidate_asked", "1 until the candidate is rolled back", registry=self.registry)
        active.set_function(is_active)
        Gauge(
            "fastserve_candidate_slowdown", "Candidate's median time over the model's", registry=self.registry
        ).set_function(slowdown)

    def record_batch(self, size: int, seconds: float) -> None:
        """Count an engine pass."""
        self._sizes.observe(size)
        self._engine.observe(seconds)

    def record_tokens(self, read: int, generated: int) -> None:
        """Count the prompt tokens and the new tokens of a language model's pass."""
        self._tokens.labels("read").inc(read)
        self._tokens.labels("written").inc(generated)

    def record_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request, under the path of its endpoint."""
        series = self._series.get((path, status))
        if series is None:  # cached, because prometheus_client looks a series up under a lock
            series = self._requests.labels(path, str(status)), self._latency.labels(path)
            self._series[path, status] = series
        series[0].inc()
        series[1].observe(seconds)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Export the metrics.

        Args:
            accept: The request's ``Accept`` header, which selects the format.

        Returns:
            The text and its content type.
        """
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
