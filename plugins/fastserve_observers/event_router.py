"""Follows a run stage by stage and trial by trial, for observers that write curves elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fastserve_core.events import (
    Event,
    Metric,
    RunFinished,
    StageFinished,
    StageStarted,
    Step,
    TrialFinished,
    WarningRaised,
)
from fastserve_observers.scalars import metric_figures, step_figures

log = logging.getLogger("fastserve")

DONE, FAILED = "done", "failed"
Warn = tuple[float, Step]
"""When a step was told (seconds since 1970), and the step."""


class Sink(Protocol):
    """Where the figures go. A place is a plugin's path, such as ``train.torch_ddp``."""

    def write_scalars(self, place: str, values: Mapping[str, float], step: int, when: float) -> None:
        """Numbers of one moment of a stage."""

    def trial(self, place: str, event: TrialFinished, steps: Sequence[Warn]) -> None:
        """A trial that ended, and its steps."""

    def stage(self, place: str, event: StageFinished) -> None:
        """A stage that ended; its line is in ``run.json`` by now."""

    def close(self, status: str) -> None:
        """The run is ``done``, or ``failed``: nothing comes after it."""


class EventRouter:
    """Sorts events into a sink, which it opens with the first stage.

    A trial's number is told at its end, so its steps are kept until then. A sink that fails is said once and
    left alone: the run that it watches goes on.
    """

    def __init__(self, name: str, opening: Callable[[], Sink]) -> None:
        self._name = name
        self._opening = opening
        self._sink: Sink | None = None
        self._over = False
        self._place = ""
        self._tuning = False
        self._steps: list[Warn] = []

    def observe(self, event: Event) -> None:
        if self._over:
            return
        try:
            self._follow(event)
        except Exception as error:
            self._over = True
            warn(f"{self._name} stopped, the run goes on without it: {reason(error)}")

    def _follow(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._start(event)
        elif self._sink is not None:
            self._forward(self._sink, event)

    def _start(self, event: StageStarted) -> None:
        self._sink = self._sink or self._opening()
        self._place, self._tuning = f"{event.stage}.{event.plugin}", event.stage == "tune"
        self._steps = []

    def _forward(self, sink: Sink, event: Event) -> None:
        now = time.time()
        match event:
            case Step() if self._tuning:
                self._steps.append((now, event))
            case Step():
                sink.write_scalars(self._place, step_figures(event), event.step, now)
            case Metric() if not self._tuning:
                sink.write_scalars(self._place, metric_figures(event), event.step, now)
            case TrialFinished():
                steps, self._steps = self._steps, []
                sink.trial(self._place, event, steps)
            case StageFinished():
                sink.stage(f"{event.stage}.{event.plugin}", event)
                if event.status == FAILED:
                    self._close(sink, FAILED)
            case RunFinished():
                self._close(sink, DONE)

    def _close(self, sink: Sink, status: str) -> None:
        self._over = True
        sink.close(status)


def run_folder() -> Path | None:
    """The folder of the command line's run; a run from Python has none."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None


def warn(message: str) -> None:
    """Say it to the user, and to the run's log; observers have nobody else to tell."""
    print(f"warning: {message}", file=sys.stderr)
    log.info("%s", WarningRaised(message))


def reason(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
