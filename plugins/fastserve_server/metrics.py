"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
UNMATCHED = "unmatched"
"""The path's label for a request that no route takes: a client must not be able to make new series."""


class Metrics:
    """One application's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("fastserve_requests", "Requests answered", ["path", "status"], registry=registry)
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

        self._tokens = Counter("fastserve_tokens", "Tokens read and written", ["kind"], registry=registry)
        self._series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Ask this function for the queue's depth whenever the metrics are read."""
        self._queue.set_function(depth)

    def watch_candidate(
        self, answers: Mapping[str, int], asked: Callable[[], float], slowdown: Callable[[], float]
    ) -> None:
        """Ask these whenever the metrics are read: what became of a candidate's answers, and how it does."""
        compared = Gauge(
            "fastserve_candidate_answers", "What became of the candidate's answers", ["kind"], registry=self.registry
        )
        for kind in answers:
            compared.labels(kind).set_function(partial(answers.__getitem__, kind))
        Gauge("fastserve_candidate_asked", "1 until it is rolled back", registry=self.registry).set_function(asked)
        Gauge(
            "fastserve_candidate_slowdown", "The candidate's median time over the model's", registry=self.registry
        ).set_function(slowdown)

    def record_batch(self, size: int, seconds: float) -> None:
        """Count an engine pass."""
        self._sizes.observe(size)
        self._engine.observe(seconds)

    def record_tokens(self, read: int, written: int) -> None:
        """Count the tokens of prompts and of texts in a pass of a language model."""
        self._tokens.labels("read").inc(read)
        self._tokens.labels("written").inc(written)

    def record_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request under its route's path."""
        counted = self._series.get((path, status))
        if counted is None:  # what is found once is kept: prometheus_client looks a series up under a lock
            counted = self._requests.labels(path, str(status)), self._latency.labels(path)
            self._series[path, status] = counted
        counted[0].inc()
        counted[1].observe(seconds)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The exposition in the format that the Accept header asks for, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
