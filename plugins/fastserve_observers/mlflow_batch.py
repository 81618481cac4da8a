"""Batches of MLflow data about a run, merged so that few requests carry them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """Value of a metric at a step.

    Attributes:
        name: Name in MLflow.
        value: Value.
        step: Step.
        timestamp: Time in seconds since 1970.
    """

    name: str
    value: float
    step: int
    timestamp: float


@dataclass
class MetricBatch:
    """New data of one run; times are in seconds since 1970.

    Attributes:
        run: Name of a trial, or empty for the run itself.
        start_time: Start of the run, used when MLflow creates it.
        metrics: Metrics to log.
        params: Params to log.
        tags: Tags to set.
        end: MLflow's final status and its time.
    """

    run: str
    start_time: float
    metrics: list[Metric] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    end: tuple[str, float] | None = None

    @property
    def has_only_metrics(self) -> bool:
        """Return whether the batch may be dropped when the queue is full."""
        return not (self.params or self.tags or self.end)

    def add(self, later: MetricBatch) -> None:
        """Merge a later batch of the same run into this one."""
        self.metrics += later.metrics
        self.params |= later.params
        self.tags |= later.tags
        self.end = later.end or self.end


def merge_batches(batches: Iterable[MetricBatch]) -> list[MetricBatch]:
    """Return one batch per run, in the order in which the runs first occur."""
    merged: dict[str, MetricBatch] = {}
    for batch in batches:
        merged.setdefault(batch.run, MetricBatch(batch.run, batch.start_time)).add(batch)
    return list(merged.values())
