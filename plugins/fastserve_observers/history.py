"""History of a run's events for the report: trials, training curves, warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fastserve_core.events import (
    Event,
    Metric,
    Preflight,
    StageFinished,
    StageStarted,
    Step,
    TrialFinished,
    WarningRaised,
)

MAX_POINTS = 300
"""Approximate number of points per curve, independent of the length of the training."""

Point = tuple[float, float]


class DownsampledCurve:
    """Curve with a bounded number of points; neighbours are replaced by their mean."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._pending: list[Point] = []
        self._width = 1

    def add(self, x: float, y: float) -> None:
        """Append a point; a lower x replaces the points after it, as a resumed training does.

        Points with a non-finite y are dropped.
        """
        if not math.isfinite(y):
            return
        last = (self._pending or self._points or [(-math.inf, 0.0)])[-1][0]
        if x <= last:
            self._points = [point for point in self._points if point[0] < x]
            self._pending = [point for point in self._pending if point[0] < x]
        self._pending.append((x, y))
        if len(self._pending) < self._width:
            return
        self._points.append(_mean(self._pending))
        self._pending = []
        if len(self._points) >= 2 * MAX_POINTS:
            self._points = [_mean(self._points[index : index + 2]) for index in range(0, len(self._points), 2)]
            self._width *= 2

    @property
    def points(self) -> list[Point]:
        """Return the points in order of x."""
        return self._points + ([_mean(self._pending)] if self._pending else [])


def _mean(points: list[Point]) -> Point:
    count = len(points)
    return sum(x for x, _ in points) / count, sum(y for _, y in points) / count


@dataclass
class TrainingCurves:
    """Curves of one stage over its steps.

    Attributes:
        loss: Training loss.
        metrics: Validation metrics by name.
    """

    loss: DownsampledCurve = field(default_factory=DownsampledCurve)
    metrics: dict[str, DownsampledCurve] = field(default_factory=dict)


class History:
    """Collector of a run's events; a stage that restarts replaces its earlier events."""

    def __init__(self) -> None:
        self.trials: list[TrialFinished] = []
        self.curves: dict[str, TrainingCurves] = {}
        self.warnings: list[str] = []
        self.preflight: Preflight | None = None
        self._stage = ""
        self._tuning = False

    def add(self, event: Event) -> None:
        """Add one event."""
        match event:
            case StageStarted():
                self._start(event)
            case StageFinished():
                self._stage, self._tuning = "", False
            case TrialFinished():
                others = [trial for trial in self.trials if trial.number != event.number]  # it may have been resumed
                self.trials = sorted([*others, event], key=lambda trial: trial.number)
            case Step() if self._stage and not self._tuning:
                self._curves().loss.add(event.step, event.loss)
            case Metric() if self._stage and not self._tuning:
                self._curves().metrics.setdefault(event.name, DownsampledCurve()).add(event.step, event.value)
            case WarningRaised() if event.message not in self.warnings:
                self.warnings.append(event.message)
            case Preflight():
                self.preflight = event

    def _start(self, event: StageStarted) -> None:
        self._stage, self._tuning = f"{event.stage} {event.plugin}", event.stage == "tune"
        self.curves.pop(self._stage, None)
        if self._tuning:
            self.trials = []

    def _curves(self) -> TrainingCurves:
        return self.curves.setdefault(self._stage, TrainingCurves())
