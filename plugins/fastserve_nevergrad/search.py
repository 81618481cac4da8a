"""The search: ask, try, write down, tell; a killed search goes on from what was written down."""

from __future__ import annotations

import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fastserve_core.data import check_folds
from fastserve_core.errors import FastServeError, InvalidOption, StageFailed
from fastserve_core.events import TrialFinished, WarningRaised
from fastserve_core.plugins import Budget, TuneContext
from fastserve_core.processes import threads_per_process
from fastserve_nevergrad.objectives import Objectives, value_of
from fastserve_nevergrad.optimizer import FAILURE_LOSS, NevergradAdapter, key_of
from fastserve_nevergrad.options import NevergradOptions
from fastserve_nevergrad.selection import select_best
from fastserve_nevergrad.space import Space, default_space
from fastserve_nevergrad.study_log import LOG, append, begin_log, earlier_trials, read_log
from fastserve_nevergrad.successive_halving import Rungs
from fastserve_nevergrad.workers import Workers

CONSTRAINT_PENALTY = 1e4
"""The loss of a trial that misses a limit, and more the more it does; no figure of a trial comes near."""
DEFAULT_FULL_TRIALS = 6
"""How many whole trials' steps are spent where nothing is said."""
MAX_INITIAL_FAILURES = 3
"""After so many trials of which each failed, and of the same cause, the others are not tried."""

Line = dict[str, Any]
"""A trial as the log has it."""


def search(run: TuneContext, options: NevergradOptions) -> dict[str, Any]:
    """The best options found, by path; those as they are are the first trial, so it is never worse than they."""
    if run.compressor_options and (options.folds or options.repeats > 1 or options.workers != 1):
        raise InvalidOption(
            "tune.nevergrad.folds, repeats and workers are for trainings: recipes are timed, one at a time"
        )
    if options.folds is not None:
        check_folds(run.data, options.folds)
    rungs = Rungs(
        options.trial_steps, options.reduction_factor if not run.compressor_options else None, options.min_resource
    )
    steps = options.steps or DEFAULT_FULL_TRIALS * options.trial_steps * options.samples
    most = options.trials or rungs.trials(steps // options.samples)
    space = options.space
    if space is None:
        space = default_space(run.trainer_options, run.default_search_space, run.user_overrides, most)
    space = {path: description for path, description in space.items() if path not in run.user_overrides}
    if not space:
        run.emit(WarningRaised("nothing is left to tune: every option of the space was set on the command line"))
        return {}
    with _workers(options) as workers:
        study = Study(run, options, space, rungs, most, workers)
        study.optimize()
    return study.best()


@contextmanager
def _workers(options: NevergradOptions) -> Iterator[Workers[Line]]:
    if not isinstance(options.workers, str):
        yield Workers(options.workers)
        return
    from fastserve_nevergrad.ray_executor import ray_executor

    with ray_executor() as (count, remote_executor):
        yield Workers(count, remote_executor)


@dataclass(frozen=True)
class PendingTrial:
    """A trial under way; what the optimizer proposed for it, if it did."""

    number: int
    rung: int
    candidate: Any
    line: Future[Line]


class Study:
    """Trials so far, and the optimizer that has been told of them.

    Trials are told in the order in which they began, whichever ended first, so that the same seed asks for the same
    ones. What ended is in the log at once: a search that goes on goes the same way, and tries only what is not there.
    """

    def __init__(
        self,
        run: TuneContext,
        options: NevergradOptions,
        space: Mapping[str, Any],
        rungs: Rungs,
        most: int,
        workers: Workers[Line],
    ) -> None:
        self.run, self.options, self.rungs, self.most, self.log = run, options, rungs, most, run.folder / LOG
        self.space = Space(space, {**run.trainer_options, **run.compressor_options})
        self.goals = Objectives.read(options.objectives, options.constraints, options.recipes)
        self.asker = NevergradAdapter(
            self.space, options.optimizer, most, run.seed, lambda text: run.emit(WarningRaised(text)),
            max(1, len(self.goals.objectives)),
        )  # fmt: skip
        earlier = earlier_trials(options.warm_start, space) if options.warm_start else []
        begin_log(self.log, space)
        self.logged: dict[tuple[int, int], Line] = {
            (line["number"], line.get("rung", 0)): line for line in read_log(self.log)
        }
        self.done: list[Line] = []
        self.chosen: dict[int, dict[str, Any]] = {}
        self._firsts = [self.space.first, *(one["options"] for one in earlier[:1])]
        for one in earlier:
            if (candidate := self.space.candidate(one["options"])) is not None:
                self.asker.tell(candidate, self._losses(one))
        self._workers = workers

    def optimize(self) -> None:
        """Trials until the budget or the patience is used up; those in the log are told again, not tried again."""
        waiting: deque[PendingTrial] = deque()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nevergrad warns of its own small budgets
                while True:
                    while len(waiting) < self._workers.count and (step := self._next()) is not None:
                        waiting.append(self._begin(*step, [key_of(self.chosen[one.number]) for one in waiting]))
                    if not waiting:
                        return
                    self._end(waiting.popleft())
        finally:
            self._workers.stop.set()

    def best(self) -> dict[str, Any]:
        """The best of the trials that came furthest; with goals, of those on the front that keep the limits."""
        last = {line["number"]: line for line in self.done if line["objective"] is not None}
        finalists = [last[number] for number in self.rungs.finalists()]
        if not finalists:
            raise StageFailed(self._why_none())
        kept = [line for line in finalists if not self.goals.excess(line)]
        if not kept and self.goals.limits:
            raise StageFailed(self._closest_violation(finalists))
        kept = self.goals.front(kept) or finalists
        scores = {line["number"]: line.get("each") or [line["objective"]] for line in kept}
        return dict(self.chosen[select_best(scores)])

    def _why_none(self) -> str:
        causes = Counter(trial["error"] for trial in self.done)
        (cause, times), more = causes.most_common(1)[0], len(causes) - 1
        others = f" ({times} of {len(self.done)} trials; {more} other causes)" if more else ""
        return f"every trial failed: {cause}{others}"

    def _closest_violation(self, lines: Sequence[Line]) -> str:
        nearest = min(lines, key=self.goals.excess)
        missed = [one for one in self.goals.limits if one.violation(nearest)]
        figures = ", ".join(f"{one.name} {value_of(nearest, one.name):.4g}" for one in missed)
        limits = " and ".join(map(str, self.goals.limits))
        return f"no trial keeps {limits}: the nearest is trial {nearest['number'] + 1}, with {figures}"

    # -- what is tried next --------------------------------------------------------------------------

    def _next(self) -> tuple[int, int] | None:
        """The trial to make or to go on with, and its rung; ``None`` at the end, or until another has ended."""
        if self._all_failed():
            return None
        new = (len(self.chosen), 0) if len(self.chosen) < self.most and not self._improving() else None
        step = self.rungs.promoted() or new or self.rungs.last()
        if step is None or (self.chosen and self._spent(step[1])):
            return None
        return step

    def _spent(self, rung: int) -> bool:
        """Whether the steps do not suffice for that rung, or the seconds are used up."""
        seconds, steps = self.options.timeout_s, self.options.steps
        if seconds is not None and sum(line["seconds"] for line in self.done) >= seconds * self._workers.count:
            return True
        return (
            steps is not None
            and self.rungs.steps_used(self.done) + self.rungs.cost(rung) > steps // self.options.samples
        )

    def _all_failed(self) -> bool:
        errors = [line["error"] for line in self.done]
        return len(errors) >= MAX_INITIAL_FAILURES and len(set(errors)) == 1 and bool(errors[0])

    def _improving(self) -> bool:
        """Whether as many trials as the patience had no gain, as far as their first rung tells."""
        scores = [
            -FAILURE_LOSS if one["objective"] is None else one["objective"] for one in self.done if not one.get("rung")
        ]
        patience = self.options.patience
        if patience is None or len(scores) <= patience:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= patience

    def _begin(self, number: int, rung: int, waiting: Sequence[str]) -> PendingTrial:
        """Start a trial, or go on with it; one that the log has is not made again."""
        candidate = None
        if rung == 0:
            candidate, options = self._ask(number, waiting)
            self.chosen[number] = options
        self.rungs.begin(number, rung)
        line = self.logged.get((number, rung))
        if line is not None:
            future: Future[Line] = Future()
            future.set_result(line)
        else:
            future = self._workers.submit(lambda: self._submit(number, rung, self.chosen[number]))
        return PendingTrial(number, rung, candidate, future)

    def _ask(self, number: int, waiting: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """Trial 0 is what would be done anyway, and 1 the best of an earlier study."""
        if number < len(self._firsts):
            options = self.space.options(self._firsts[number])
            return self.space.candidate(options), options
        tried = {key_of(line["options"]): self._losses(line) for line in self.done if not line.get("rung")}
        return self.asker.ask(tried, waiting)

    def _end(self, begun: PendingTrial) -> None:
        """Wait for a trial and tell of it."""
        line = begun.line.result()
        self.done.append(line)
        self.rungs.add(begun.number, begun.rung, line["objective"])
        if begun.candidate is not None:
            self.asker.tell(begun.candidate, self._losses(line))
        for one in self.rungs.pruned(self._max_trials()):
            self.run.discard_trial(one)

    def _losses(self, line: Line) -> list[float] | None:
        """What the optimizer is told: what misses a limit comes after all that keep them, in order (Deb 2000)."""
        if line["objective"] is None:
            return None
        missed = self.goals.excess(line)
        return [CONSTRAINT_PENALTY + missed] * max(1, len(self.goals.objectives)) if missed else self.goals.losses(line)

    def _max_trials(self) -> int:
        """How many trials there can be."""
        steps, first = self.options.steps, self.rungs.lengths[0]
        return self.most if steps is None else min(self.most, 1 + steps // self.options.samples // first)

    # -- one trial -----------------------------------------------------------------------------------

    def _submit(self, number: int, rung: int, options: Mapping[str, Any]) -> Line:
        line: Line = {"number": number, "options": dict(options), "objective": None, "error": ""}
        if len(self.rungs.lengths) > 1:
            line["rung"] = rung
        begin = time.perf_counter()
        try:
            line |= self._on_trial_end(number, rung) or self._trained(number, rung, options)
        except FastServeError as error:
            line["error"] = str(error)
        line["seconds"] = round(time.perf_counter() - begin, 2)
        append(self.log, line)
        figures = (line["options"], line["objective"], line["seconds"], line.get("measures", {}), line["error"])
        steps = line.get("steps") if "rung" in line else None
        self.run.emit(TrialFinished(number, self.most, *figures, steps=steps))
        return line

    def _trained(self, number: int, rung: int, options: Mapping[str, Any]) -> Line:
        """Every fold and seed in turn."""
        whole, here = self.rungs.lengths[-1], self.rungs.lengths[rung]
        budget = Budget(whole, None if here == whole else here)
        more: dict[str, Any] = {"folds": self.options.folds} if self.options.folds else {}
        if self._workers.remote_executor is not None:
            more["remote_executor"] = self._workers.remote_executor
        elif self._workers.count > 1:
            more |= {"threads": threads_per_process(self._workers.count), "stop": self._workers.stop}
        made = [
            self.run.run_trial(number, options, budget, **more, **({"repeat": one} if one else {}))
            for one in range(self.options.samples)
        ]
        line = {
            "objective": fmean(one.objective for one in made),
            "scores": dict(made[0].scores),
            "steps": made[0].steps,
        }
        if len(made) > 1:
            line["each"] = [one.objective for one in made]
        return line | {"measures": dict(made[0].measures)}

    def _on_trial_end(self, number: int, rung: int) -> Line | None:
        """What the trial came to below, where it was not paused: its training was shorter, or does not pause."""
        before = [one for one in self.done if one["number"] == number]
        if not rung or before[-1]["steps"] == self.rungs.lengths[rung - 1]:
            return None
        return {
            name: before[-1][name]
            for name in ("objective", "scores", "steps", "each", "measures")
            if name in before[-1]
        }
