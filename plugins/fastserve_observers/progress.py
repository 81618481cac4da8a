"""Shows a run while it goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from fastserve_core import events, hookimpl
from fastserve_core.errors import InvalidOption
from fastserve_core.plugins import Observer
from fastserve_observers.formatting import number
from fastserve_observers.messages import (
    closing_lines,
    finished_line,
    metric_line,
    plan_line,
    preflight_line,
    step_detail,
    summary_table,
    time_left,
    trial_line,
)
from fastserve_observers.run_summary import RunSummary
from fastserve_observers.screens import Screen, open_screen


@dataclass
class ProgressOptions:
    """``every_s``: without a terminal, how many seconds pass at least between two lines about steps."""

    every_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise InvalidOption(f"observe.progress.every_s must be above 0, not {self.every_s}")


class Progress(Observer):
    """Writes to the standard output; when nobody reads that any more it falls silent and the run goes on."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("rich",)
    Options: ClassVar[type] = ProgressOptions

    def __init__(self, options: ProgressOptions, screen: Screen | None = None) -> None:
        self._options = options
        self._screen = screen
        self._silent = False
        self._stage = ""
        self._best: float | None = None

    @hookimpl(trylast=True)  # the summary names the report, which another observer writes
    def observe(self, event: events.Event) -> None:
        show = self._HANDLERS.get(type(event))
        if show is None or self._silent:
            return
        try:
            show(self, self._opened(), event)
        except OSError:
            self._disable()

    def _opened(self) -> Screen:
        if self._screen is None:
            self._screen = open_screen(self._options.every_s)
        return self._screen

    def _disable(self) -> None:
        self._silent = True
        with contextlib.suppress(OSError):
            self._opened().end_bar()
        # what is buffered for a closed pipe would fail once more at exit
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)

    def _planned(self, screen: Screen, event: events.RunPlanned) -> None:
        screen.line(plan_line(event))

    def _preflight(self, screen: Screen, event: events.Preflight) -> None:
        screen.line(preflight_line(event))

    def _stage_started(self, screen: Screen, event: events.StageStarted) -> None:
        self._stage, self._best = event.stage, None
        screen.line(f"== {event.stage} {event.plugin} ==", "bold cyan")

    def _stage_finished(self, screen: Screen, event: events.StageFinished) -> None:
        screen.end_bar()
        style = {"rejected": "yellow", "failed": "red"}.get(event.status, "green")
        screen.line(finished_line(event), style)

    def _step(self, screen: Screen, event: events.Step) -> None:
        screen.bar(f"{self._stage} step".strip(), event.step, event.steps, time_left(event), step_detail(event))

    def _metric(self, screen: Screen, event: events.Metric) -> None:
        screen.line(metric_line(event))

    def _trial(self, screen: Screen, event: events.TrialFinished) -> None:
        score = number(event.score)
        best = score is not None and (self._best is None or score > self._best)
        self._best = score if best else self._best
        screen.line(trial_line(event, best), "" if event.score is not None else "yellow")

    def _advance(self, screen: Screen, event: events.Progress) -> None:
        screen.bar(event.what, event.done, event.total, "", "")

    def _warned(self, screen: Screen, event: events.WarningRaised) -> None:
        screen.line(f"warning: {event.message}", "yellow")

    def _run_finished(self, screen: Screen, event: events.RunFinished) -> None:
        screen.end_bar()
        outcome = RunSummary(event.record)
        screen.line("")
        if outcome.stages:
            screen.table(*summary_table(outcome))
            screen.line("")
        report = event.folder / "report.html"
        where = [f"report: {report}"] if report.is_file() else []
        for text in [*closing_lines(outcome), *where]:
            screen.line(text, "bold" if text.startswith("report") else "")

    _HANDLERS: ClassVar[dict[type[events.Event], Callable[[Progress, Screen, Any], None]]] = {
        events.RunPlanned: _planned,
        events.Preflight: _preflight,
        events.StageStarted: _stage_started,
        events.StageFinished: _stage_finished,
        events.Step: _step,
        events.Metric: _metric,
        events.TrialFinished: _trial,
        events.Progress: _advance,
        events.WarningRaised: _warned,
        events.RunFinished: _run_finished,
    }
