"""The search: propose a trial, run it, log it, and report its loss to the optimizer; a killed search resumes."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from fastserve_core.data import check_folds
from fastserve_core.errors import OptionError
from fastserve_core.events import WarningRaised
from fastserve_core.plugins import TuneContext
from fastserve_nevergrad.objectives import Objectives
from fastserve_nevergrad.optimizer import FAILURE_LOSS, NevergradAdapter, serialize_options
from fastserve_nevergrad.options import DEFAULT_FULL_TRIALS, NevergradOptions
from fastserve_nevergrad.selection import select_trial
from fastserve_nevergrad.space import Space, default_space
from fastserve_nevergrad.study_log import LOG_FILE, Line, begin_log, read_earlier_trials, read_log
from fastserve_nevergrad.successive_halving import Rungs
from fastserve_nevergrad.trial import PendingTrial, TrialRunner
from fastserve_nevergrad.workers import WorkerPool

CONSTRAINT_PENALTY = 1e4
"""The loss of a trial that violates a constraint, before its violation is added; larger than any loss of a result."""
MAX_INITIAL_FAILURES = 3
"""The search ends if its first trials, this many, fail with the same error."""


def search(run: TuneContext, options: NevergradOptions) -> dict[str, Any]:
    """Search the best options.

    The first trial has the run's own options, so that the result is never worse than they are.

    Args:
        run: The context of the stage.
        options: The tuner's options.

    Returns:
        The best values by option path.

    Raises:
        OptionError: The options do not fit the data or the space.
        StageError: Every trial failed, or none satisfies the constraints.
    """
    if run.compressor_options and (options.folds or options.repeats > 1 or options.workers != 1):
        raise OptionError(
            "tune.nevergrad.folds, repeats and workers are for trainings: recipes are timed, one at a time"
        )
    if options.folds is not None:
        check_folds(run.data, options.folds)
    rungs = Rungs(
        options.trial_steps, options.reduction_factor if not run.compressor_options else None, options.min_resource
    )
    steps = options.steps or DEFAULT_FULL_TRIALS * options.trial_steps * options.samples
    max_trials = options.trials or rungs.affordable_trials(steps // options.samples)
    space = options.space
    if space is None:
        space = default_space(run.trainer_options, run.default_search_space, run.user_overrides, max_trials)
    space = {path: description for path, description in space.items() if path not in run.user_overrides}
    if not space:
        run.emit(WarningRaised("nothing is left to tune: every option of the space was set on the command line"))
        return {}
    with _create_workers(options) as workers:
        study = Study(run, options, space, rungs, max_trials, workers)
        study.optimize()
    return study.best_options()


@contextmanager
def _create_workers(options: NevergradOptions) -> Iterator[WorkerPool[Line]]:
    if not isinstance(options.workers, str):
        yield WorkerPool(options.workers)
        return
    from fastserve_nevergrad.ray_executor import ray_executor

    with ray_executor() as (count, remote_executor):
        yield WorkerPool(count, remote_executor)


class Study:
    """The trials so far, and the optimizer that knows their losses.

    Losses are reported in the order in which trials began, whichever ended first, so that the same seed proposes the
    same trials. Each result is logged at once: a resumed search repeats the same proposals, and runs only the trials
    that are not in the log.

    Args:
        run: The context of the stage.
        options: The tuner's options.
        space: The ranges by option path.
        rungs: The lengths of trials.
        max_trials: The maximum number of trials.
        workers: The pool that the trials run in.

    Raises:
        OptionError: The space or the optimizer is invalid, or the log has another space.
    """

    def __init__(
        self,
        run: TuneContext,
        options: NevergradOptions,
        space: Mapping[str, Any],
        rungs: Rungs,
        max_trials: int,
        workers: WorkerPool[Line],
    ) -> None:
        self.run, self.options, self.rungs, self.max_trials, self._workers = run, options, rungs, max_trials, workers
        self.space = Space(space, {**run.trainer_options, **run.compressor_options})
        self.objectives = Objectives.parse(options.objectives, options.constraints, options.recipes)
        self.optimizer = NevergradAdapter(
            self.space, options.optimizer, max_trials, run.seed, lambda text: run.emit(WarningRaised(text)),
            self.objectives.count,
        )  # fmt: skip
        earlier = read_earlier_trials(options.warm_start, space) if options.warm_start else []
        log = run.folder / LOG_FILE
        begin_log(log, space, lambda text: run.emit(WarningRaised(text)))
        self.logged: dict[tuple[int, int], Line] = {
            (line["number"], line.get("rung", 0)): line for line in read_log(log)
        }
        self.finished: list[Line] = []
        self.chosen: dict[int, dict[str, Any]] = {}
        self._runner = TrialRunner(run, options, rungs, workers, max_trials, log)
        self._initial = [self.space.initial, *(line["options"] for line in earlier[:1])]
        for line in earlier:
            if (candidate := self.space.candidate(line["options"])) is not None:
                self.optimizer.tell(candidate, self._losses(line))

    def optimize(self) -> None:
        """Run trials until the budget or the patience is exhausted; results in the log are reused."""
        pending: deque[PendingTrial] = deque()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nevergrad warns about small budgets, its own included
                while True:
                    while len(pending) < self._workers.count and (step := self._next()) is not None:
                        running = [serialize_options(self.chosen[trial.number]) for trial in pending]
                        pending.append(self._begin(*step, running))
                    if not pending:
                        return
                    self._end(pending.popleft())
        finally:
            self._workers.stop.set()

    def best_options(self) -> dict[str, Any]:
        """Return the options of the best trial of those that reached the highest rung.

        Raises:
            StageError: Every trial failed, or none satisfies the constraints.
        """
        number = select_trial(self.finished, self.rungs.finalists(), self.objectives)
        return dict(self.chosen[number])

    # -- the next trial ------------------------------------------------------------------------------

    def _next(self) -> tuple[int, int] | None:
        """Return the number and rung of the next trial, or ``None`` at the end or until another trial has ended."""
        if self._have_all_failed():
            return None
        is_open = len(self.chosen) < self.max_trials and not self._is_out_of_patience()
        new = (len(self.chosen), 0) if is_open else None
        step = self.rungs.next_promotion() or new or self.rungs.last_promotion()
        if step is None or (self.chosen and self._is_exhausted(step[1])):
            return None
        return step

    def _is_exhausted(self, rung: int) -> bool:
        """Return whether the remaining steps do not suffice for the rung, or the time is up."""
        timeout_s, steps = self.options.timeout_s, self.options.steps
        if timeout_s is not None:
            seconds = sum(line["seconds"] for line in self.finished)
            if seconds >= timeout_s * self._workers.count:
                return True
        if steps is None:
            return False
        return self.rungs.steps_used(self.finished) + self.rungs.cost(rung) > steps // self.options.samples

    def _have_all_failed(self) -> bool:
        errors = [line["error"] for line in self.finished]
        return len(errors) >= MAX_INITIAL_FAILURES and len(set(errors)) == 1 and bool(errors[0])

    def _is_out_of_patience(self) -> bool:
        """Return whether the last ``patience`` trials brought no improvement on their first rung."""
        scores = [
            -FAILURE_LOSS if line["objective"] is None else line["objective"]
            for line in self.finished
            if not line.get("rung")
        ]
        patience = self.options.patience
        if patience is None or len(scores) <= patience:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= patience

    def _begin(self, number: int, rung: int, running: Sequence[str]) -> PendingTrial:
        """Start or resume a trial, unless its result is in the log."""
        candidate = None
        if rung == 0:
            candidate, self.chosen[number] = self._propose(number, running)
        self.rungs.begin(number, rung)
        line = self.logged.get((number, rung))
        if line is not None:
            future: Future[Line] = Future()
            future.set_result(line)
        else:
            options = self.chosen[number]
            earlier = [finished for finished in self.finished if finished["number"] == number]
            future = self._workers.submit(lambda: self._runner.run_trial(number, rung, options, earlier))
        return PendingTrial(number, rung, candidate, future)

    def _propose(self, number: int, running: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """Return the run's own options for trial 0, then the best of an earlier study, then the optimizer's."""
        if number < len(self._initial):
            options = self.space.options(self._initial[number])
            return self.space.candidate(options), options
        finished = {
            serialize_options(line["options"]): self._losses(line) for line in self.finished if not line.get("rung")
        }
        return self.optimizer.ask(finished, running)

    def _end(self, trial: PendingTrial) -> None:
        """Wait for a trial, report its losses, and discard the trials that cannot be promoted any more."""
        line = trial.line.result()
        self.finished.append(line)
        self.rungs.add(trial.number, trial.rung, line["objective"])
        if trial.candidate is not None:
            self.optimizer.tell(trial.candidate, self._losses(line))
        for number in self.rungs.find_pruned(self._affordable_trials()):
            self.run.discard_trial(number)

    def _losses(self, line: Line) -> list[float] | None:
        """Return the losses for the optimizer: any violation is worse than none, and a larger one worse (Deb 2000)."""
        if line["objective"] is None:
            return None
        violation = self.objectives.total_violation(line)
        if violation:
            return [CONSTRAINT_PENALTY + violation] * self.objectives.count
        return self.objectives.losses(line)

    def _affordable_trials(self) -> int:
        steps, shortest = self.options.steps, self.rungs.lengths[0]
        if steps is None:
            return self.max_trials
        return min(self.max_trials, 1 + steps // self.options.samples // shortest)
