"""Show the progress of a run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from fastserve_core import events, hookimpl
from fastserve_core.errors import OptionError
from fastserve_core.plugins import Observer
from fastserve_observers.formatting import to_finite_float
from fastserve_observers.messages import (
    format_metric,
    format_plan,
    format_preflight,
    format_stage_result,
    format_step,
    format_time_left,
    format_trial,
    make_closing_lines,
    make_summary_table,
)
from fastserve_observers.run_summary import RunSummary
from fastserve_observers.screens import Screen, open_screen


@dataclass
class ProgressOptions:
    """Options of ``observe.progress``.

    Attributes:
        every_s: Minimum number of seconds between two lines about steps, without a terminal.
    """

    every_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise OptionError(f"observe.progress.every_s must be greater than 0, not {self.every_s}")


class Progress(Observer):
    """Observer that writes to the standard output; if its reader goes away, it is disabled and the run continues."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("rich",)
    Options: ClassVar[type] = ProgressOptions

    def __init__(self, options: ProgressOptions, screen: Screen | None = None) -> None:
        """Create the observer.

        Args:
            options: Options of the plugin.
            screen: Output; None opens the standard output with the first event.
        """
        self._options = options
        self._screen = screen
        self._is_disabled = False
        self._stage = ""
        self._best: float | None = None

    @hookimpl(trylast=True)  # the summary links the report, which another observer writes
    def observe(self, event: events.Event) -> None:
        """Show one event."""
        show = self._HANDLERS.get(type(event))
        if show is None or self._is_disabled:
            return
        try:
            show(self, self._get_screen(), event)
        except OSError:
            self._disable()

    def _get_screen(self) -> Screen:
        if self._screen is None:
            self._screen = open_screen(self._options.every_s)
        return self._screen

    def _disable(self) -> None:
        self._is_disabled = True
        with contextlib.suppress(OSError):
            self._get_screen().end_bar()
        # the buffer of a closed pipe would raise again at exit
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)

    def _show_plan(self, screen: Screen, event: events.RunPlanned) -> None:
        screen.print_line(format_plan(event))

    def _show_preflight(self, screen: Screen, event: events.Preflight) -> None:
        screen.print_line(format_preflight(event))

    def _show_stage_start(self, screen: Screen, event: events.StageStarted) -> None:
        self._stage, self._best = event.stage, None
        screen.print_line(f"== {event.stage} {event.plugin} ==", "bold cyan")

    def _show_stage_result(self, screen: Screen, event: events.StageFinished) -> None:
        screen.end_bar()
        style = {"rejected": "yellow", "failed": "red"}.get(event.status, "green")
        screen.print_line(format_stage_result(event), style)

    def _show_step(self, screen: Screen, event: events.Step) -> None:
        screen.show_bar(
            f"{self._stage} step".strip(), event.step, event.steps, format_time_left(event), format_step(event)
        )

    def _show_metric(self, screen: Screen, event: events.Metric) -> None:
        screen.print_line(format_metric(event))

    def _show_trial(self, screen: Screen, event: events.TrialFinished) -> None:
        score = to_finite_float(event.score)
        is_best = score is not None and (self._best is None or score > self._best)
        self._best = score if is_best else self._best
        screen.print_line(format_trial(event, is_best), "" if event.score is not None else "yellow")

    def _show_progress(self, screen: Screen, event: events.Progress) -> None:
        screen.show_bar(event.activity, event.done, event.total, "", "")

    def _show_warning(self, screen: Screen, event: events.WarningRaised) -> None:
        screen.print_line(f"warning: {event.message}", "yellow")

    def _show_notice(self, screen: Screen, event: events.Notice) -> None:
        screen.print_line(event.message)

    def _show_summary(self, screen: Screen, event: events.RunFinished) -> None:
        screen.end_bar()
        outcome = RunSummary(event.record)
        screen.print_line("")
        if outcome.stages:
            screen.print_table(*make_summary_table(outcome))
            screen.print_line("")
        report = event.folder / "report.html"
        report_lines = [f"report: {report}"] if report.is_file() else []
        for text in [*make_closing_lines(outcome), *report_lines]:
            screen.print_line(text, "bold" if text.startswith("report") else "")

    _HANDLERS: ClassVar[dict[type[events.Event], Callable[[Progress, Screen, Any], None]]] = {
        events.RunPlanned: _show_plan,
        events.Preflight: _show_preflight,
        events.StageStarted: _show_stage_start,
        events.StageFinished: _show_stage_result,
        events.Step: _show_step,
        events.Metric: _show_metric,
        events.TrialFinished: _show_trial,
        events.Progress: _show_progress,
        events.WarningRaised: _show_warning,
        events.Notice: _show_notice,
        events.RunFinished: _show_summary,
    }
