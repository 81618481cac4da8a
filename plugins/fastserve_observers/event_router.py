"""Route a run's events by stage and trial to observers that write curves elsewhere."""

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
from fastserve_observers.scalars import get_metric_scalars, get_step_scalars

log = logging.getLogger("fastserve")

DONE, FAILED = "done", "failed"
TimedStep = tuple[float, Step]
"""Time of a step in seconds since 1970, and the step."""


class Sink(Protocol):
    """Receiver of a run's metrics. Stages are named by their plugin's path, such as ``train.torch_ddp``."""

    def write_scalars(self, plugin: str, values: Mapping[str, float], step: int, when: float) -> None:
        """Write values of a stage at one step; ``when`` is in seconds since 1970."""

    def write_trial(self, plugin: str, event: TrialFinished, steps: Sequence[TimedStep]) -> None:
        """Write a finished trial and its steps."""

    def write_stage(self, plugin: str, event: StageFinished) -> None:
        """Write a finished stage, which ``run.json`` already contains."""

    def close(self, status: str) -> None:
        """Close the sink of a run that is ``done`` or ``failed``."""


class EventRouter:
    """Router of events to a sink, which is opened with the first stage.

    Steps of a trial are buffered until the trial ends, because its number is not known earlier. If the sink fails, the
    router warns once and drops all later events; the run continues.
    """

    def __init__(self, name: str, open_sink: Callable[[], Sink]) -> None:
        """Create the router.

        Args:
            name: Path of the observer for warnings, such as ``observe.mlflow``.
            open_sink: Opens the sink.
        """
        self._name = name
        self._open_sink = open_sink
        self._sink: Sink | None = None
        self._is_closed = False
        self._place = ""
        self._tuning = False
        self._steps: list[TimedStep] = []

    def observe(self, event: Event) -> None:
        """Route one event."""
        if self._is_closed:
            return
        try:
            self._route(event)
        except Exception as error:
            self._is_closed = True
            emit_warning(f"{self._name} is disabled for the rest of the run: {format_error(error)}")

    def _route(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._start(event)
        elif self._sink is not None:
            self._forward(self._sink, event)

    def _start(self, event: StageStarted) -> None:
        self._sink = self._sink or self._open_sink()
        self._place, self._tuning = f"{event.stage}.{event.plugin}", event.stage == "tune"
        self._steps = []

    def _forward(self, sink: Sink, event: Event) -> None:
        now = time.time()
        match event:
            case Step() if self._tuning:
                self._steps.append((now, event))
            case Step():
                sink.write_scalars(self._place, get_step_scalars(event), event.step, now)
            case Metric() if not self._tuning:
                sink.write_scalars(self._place, get_metric_scalars(event), event.step, now)
            case TrialFinished():
                steps, self._steps = self._steps, []
                sink.write_trial(self._place, event, steps)
            case StageFinished():
                sink.write_stage(f"{event.stage}.{event.plugin}", event)
                if event.status == FAILED:
                    self._close(sink, FAILED)
            case RunFinished():
                self._close(sink, DONE)

    def _close(self, sink: Sink, status: str) -> None:
        self._is_closed = True
        sink.close(status)


def get_run_folder() -> Path | None:
    """Return the run folder of a command-line run, or None for a run from Python."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    runtime = HydraConfig.get().runtime if HydraConfig.initialized() else None
    if runtime is None or OmegaConf.is_missing(runtime, "output_dir"):  # Hydra composed a config and runs no job
        return None
    return Path(runtime.output_dir)


def emit_warning(message: str) -> None:
    """Print a warning and write it to the run's log; observers have no other channel."""
    print(f"warning: {message}", file=sys.stderr)
    log.info("%s", WarningRaised(message))


def format_error(error: Exception) -> str:
    """Return the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
