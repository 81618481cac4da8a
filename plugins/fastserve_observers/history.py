"""What the report remembers of a run's events: trials, training curves, warnings."""

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

LIMIT = 300
"""About so many points of a curve are kept, however long the training."""

Point = tuple[float, float]


class DownsampledCurve:
    """Points along a curve; when they are too many, neighbours are replaced by their mean."""

    def __init__(self) -> None:
        self._kept: list[Point] = []
        self._open: list[Point] = []
        self._width = 1

    def add(self, x: float, y: float) -> None:
        """Points come in order; one that goes back replaces what was after it, as a resumed training does."""
        if not math.isfinite(y):
            return
        last = (self._open or self._kept or [(-math.inf, 0.0)])[-1][0]
        if x <= last:
            self._kept = [one for one in self._kept if one[0] < x]
            self._open = [one for one in self._open if one[0] < x]
        self._open.append((x, y))
        if len(self._open) < self._width:
            return
        self._kept.append(_mean(self._open))
        self._open = []
        if len(self._kept) >= 2 * LIMIT:
            self._kept = [_mean(self._kept[place : place + 2]) for place in range(0, len(self._kept), 2)]
            self._width *= 2

    @property
    def points(self) -> list[Point]:
        return self._kept + ([_mean(self._open)] if self._open else [])


def _mean(points: list[Point]) -> Point:
    count = len(points)
    return sum(one[0] for one in points) / count, sum(one[1] for one in points) / count


@dataclass
class Curves:
    """What one stage told while it trained: the loss, and each validation metric, over its steps."""

    loss: DownsampledCurve = field(default_factory=DownsampledCurve)
    metrics: dict[str, DownsampledCurve] = field(default_factory=dict)


class History:
    """Fed with every event; a stage that starts anew forgets what it told before."""

    def __init__(self) -> None:
        self.trials: list[TrialFinished] = []
        self.curves: dict[str, Curves] = {}
        self.warnings: list[str] = []
        self.preflight: Preflight | None = None
        self._stage = ""
        self._tuning = False

    def add(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._start(event)
            case StageFinished():
                self._stage, self._tuning = "", False
            case TrialFinished():
                others = [one for one in self.trials if one.number != event.number]  # it may have gone on
                self.trials = sorted([*others, event], key=lambda one: one.number)
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

    def _curves(self) -> Curves:
        return self.curves.setdefault(self._stage, Curves())
