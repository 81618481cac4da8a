"""One trial of a study: its trainings, its result in the log, and its event."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fastserve_core.errors import FastServeError, TransientError
from fastserve_core.events import TrialFinished
from fastserve_core.plugins import Budget, TuneContext
from fastserve_core.processes import threads_per_process
from fastserve_nevergrad.options import NevergradOptions
from fastserve_nevergrad.study_log import Line, append_record
from fastserve_nevergrad.successive_halving import Rungs
from fastserve_nevergrad.workers import WorkerPool

REUSED_FIELDS = ("objective", "scores", "steps", "each", "measures")


@dataclass(frozen=True)
class PendingTrial:
    """A running trial.

    Attributes:
        number: The number of the trial.
        rung: The rung that it will reach.
        candidate: Nevergrad's candidate, or ``None`` if the optimizer did not propose the trial.
        line: Its line in the log.
    """

    number: int
    rung: int
    candidate: Any
    line: Future[Line]


class TrialRunner:
    """Runs trials and appends their results to the log.

    Args:
        run: The context of the stage.
        options: The tuner's options.
        rungs: The lengths of trials.
        workers: The pool that the trials run in.
        max_trials: The planned number of trials, for events.
        log: The log's file.
    """

    def __init__(
        self,
        run: TuneContext,
        options: NevergradOptions,
        rungs: Rungs,
        workers: WorkerPool[Line],
        max_trials: int,
        log: Path,
    ) -> None:
        self.run, self.options, self.rungs, self.workers = run, options, rungs, workers
        self.max_trials, self.log = max_trials, log

    def run_trial(self, number: int, rung: int, options: Mapping[str, Any], earlier: Sequence[Line]) -> Line:
        """Run a trial, or resume it on a higher rung; a failure is a result too, unless the machine caused it.

        Args:
            number: The number of the trial.
            rung: The rung to reach.
            options: The trial's options.
            earlier: The results of the same trial on lower rungs.

        Returns:
            The trial's line in the log.

        Raises:
            TransientError: The machine failed; the log has no line of the trial.
        """
        line: Line = {"number": number, "options": dict(options), "objective": None, "error": ""}
        if len(self.rungs.lengths) > 1:
            line["rung"] = rung
        begin = time.perf_counter()
        try:
            line |= self._reuse_result(rung, earlier) or self._train(number, rung, options)
        except TransientError:
            raise  # not a result: options and data do not decide it
        except FastServeError as error:
            line["error"] = str(error)
        line["seconds"] = round(time.perf_counter() - begin, 2)
        append_record(self.log, line)
        figures = (line["options"], line["objective"], line["seconds"], line.get("measures", {}), line["error"])
        steps = line.get("steps") if "rung" in line else None
        self.run.emit(TrialFinished(number, self.max_trials, *figures, steps=steps))
        return line

    def _train(self, number: int, rung: int, options: Mapping[str, Any]) -> Line:
        """Train once for each fold and seed, and return the mean result."""
        full_length, length = self.rungs.lengths[-1], self.rungs.lengths[rung]
        budget = Budget(full_length, None if length == full_length else length)
        arguments: dict[str, Any] = {"folds": self.options.folds} if self.options.folds else {}
        if self.workers.remote_executor is not None:
            arguments["remote_executor"] = self.workers.remote_executor
        elif self.workers.count > 1:
            arguments |= {"threads": threads_per_process(self.workers.count), "stop": self.workers.stop}
        results = [
            self.run.run_trial(number, options, budget, **arguments, **({"repeat": sample} if sample else {}))
            for sample in range(self.options.samples)
        ]
        line = {
            "objective": fmean(result.objective for result in results),
            "scores": dict(results[0].scores),
            "steps": results[0].steps,
        }
        if len(results) > 1:
            line["each"] = [result.objective for result in results]
        return line | {"measures": dict(results[0].measures)}

    def _reuse_result(self, rung: int, earlier: Sequence[Line]) -> Line | None:
        """Return the result of the rung below if the training ended there, because it was short or cannot pause."""
        if not rung or earlier[-1]["steps"] == self.rungs.lengths[rung - 1]:
            return None
        return {name: earlier[-1][name] for name in REUSED_FIELDS if name in earlier[-1]}
