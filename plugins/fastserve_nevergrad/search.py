"""The search: ask, try, write down, tell; a killed search goes on from what was written down."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nevergrad as ng

from fastserve_core.errors import BadOption, FastServeError, StageFailed, suggest
from fastserve_core.events import TrialFinished, Warned
from fastserve_core.run import Budget, Run
from fastserve_nevergrad.halving import Rungs
from fastserve_nevergrad.space import build, ready_made

if TYPE_CHECKING:
    from fastserve_nevergrad import NevergradOptions

LOG = "trials.jsonl"
REPEATS = 20
"""How often an optimizer may propose what was already tried, before it is tried again after all."""
HOPELESS = 3
"""After so many trials of which each failed, and of the same cause, the others are not tried."""
BAD = 1e6
"""The loss that a failed trial is told as; the optimizer must not be told nan or nothing."""


def search(run: Run, options: NevergradOptions) -> dict[str, Any]:
    """The best options found, by path; those as they are are the first trial, so it is never worse than they."""
    space = options.space if options.space is not None else ready_made(run.trainer, run.fixed)
    space = {path: description for path, description in space.items() if path not in run.fixed}
    if not space:
        run.emit(Warned("nothing is left to tune: every option of the space was set on the command line"))
        return {}
    study = Study(run, options, space)
    study.go()
    return study.best()


class Study:
    """Trials so far, and the optimizer that has been told of them."""

    def __init__(self, run: Run, options: NevergradOptions, space: Mapping[str, Any]) -> None:
        self.run, self.options, self.log = run, options, run.folder / LOG
        known = {**run.trainer, **run.recipe}
        parameters = build(space, known)
        parameters.random_state.seed(run.seed % 2**32)
        registry = ng.optimizers.registry
        if options.optimizer not in registry:
            names = [name for name in registry if len(name) < 24]
            close = suggest(options.optimizer, names).partition(" (known")[0]
            raise BadOption(f"tune.nevergrad.optimizer: nevergrad has no '{options.optimizer}'{close}")
        self.optimizer = registry[options.optimizer](parameters, budget=options.trials, num_workers=1)
        self.first = {path: known[path] for path in space}
        self.trials: list[dict[str, Any]] = read_log(self.log)
        self._warned = False
        self.position = 0
        """How many of them the optimizer and the rungs know."""
        self.chosen: dict[int, dict[str, Any]] = {}
        self.rungs = Rungs(options.trial_steps, options.halving if not run.recipe else None)

    def go(self) -> None:
        """Trials until the budget or the patience is used up; those in the log are told again, not tried again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nevergrad warns of its own small budgets
            while (step := self._next()) is not None:
                number, rung = step
                candidate = self._ask(number) if rung == 0 else None
                if self.position == len(self.trials):
                    options = self.chosen[number] if rung else self.first if candidate is None else candidate.value
                    self._try(number, rung, plain(options))
                trial = self.trials[self.position]
                self.position += 1
                self.chosen[number] = trial["options"]
                self.rungs.add(number, rung, trial["objective"])
                if candidate is not None:
                    self._tell(candidate, trial["objective"])
                for one in self.rungs.out(self._most()):
                    self.run.give_up(one)

    def best(self) -> dict[str, Any]:
        number = self.rungs.best()
        if number is None:
            causes = Counter(trial["error"] for trial in self.trials)
            (cause, times), more = causes.most_common(1)[0], len(causes) - 1
            others = f" ({times} of {len(self.trials)} trials; {more} other causes)" if more else ""
            raise StageFailed(f"every trial failed: {cause}{others}")
        return dict(self.chosen[number])

    def _next(self) -> tuple[int, int] | None:
        """The trial to make or to go on with, and its rung; ``None`` at the end."""
        done = self.trials[: self.position]
        if self._hopeless(done):
            return None
        new = (len(self.chosen), 0) if len(self.chosen) < self.options.trials and not self._patient(done) else None
        step = self.rungs.promoted() or new or self.rungs.last()
        if step is None or (done and self._spent(done, step[1])):
            return None
        return step

    def _spent(self, done: Sequence[Mapping[str, Any]], rung: int) -> bool:
        """Whether the steps do not suffice for that rung, or the seconds are used up."""
        seconds, steps = self.options.seconds, self.options.steps
        if seconds is not None and sum(trial["seconds"] for trial in done) >= seconds:
            return True
        used = sum({trial["number"]: trial["steps"] for trial in done if "steps" in trial}.values())
        return steps is not None and used + self.rungs.cost(rung) > steps

    def _hopeless(self, done: Sequence[Mapping[str, Any]]) -> bool:
        errors = [trial["error"] for trial in done]
        return len(errors) >= HOPELESS and len(set(errors)) == 1 and bool(errors[0])

    def _patient(self, done: Sequence[Mapping[str, Any]]) -> bool:
        """Whether as many trials as the patience had no gain, as far as their first rung tells."""
        scores = [-BAD if one["objective"] is None else one["objective"] for one in done if not one.get("rung")]
        patience = self.options.patience
        if patience is None or len(scores) <= patience:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= patience

    def _most(self) -> int:
        """How many trials there can be."""
        steps, first = self.options.steps, self.rungs.lengths[0]
        return self.options.trials if steps is None else min(self.options.trials, 1 + steps // first)

    def _ask(self, number: int) -> Any:
        """The next candidate; what was tried before is told again, not tried again.

        Trial 0 is what would be done anyway: ``None`` where that lies outside the space.
        """
        if number == 0:
            try:
                return self.optimizer.parametrization.spawn_child(new_value=self.first)
            except (ValueError, TypeError):  # a number out of its range, or null
                return None
        firsts = [one for one in self.trials[: self.position] if not one.get("rung")]
        earlier = {json.dumps(one["options"]): one["objective"] for one in firsts}
        for _ in range(REPEATS):
            candidate = self._proposed()
            known = json.dumps(plain(candidate.value))
            if known not in earlier:
                break
            self._tell(candidate, earlier[known])
        return candidate

    def _proposed(self) -> Any:
        """What the optimizer proposes; where it breaks, what its parameters draw at random."""
        try:
            return self.optimizer.ask()
        except Exception as error:  # seen: NGOpt's meta-model of one number with numpy 2.4, for 1000 trials
            if not self._warned:
                self.run.emit(
                    Warned(f"nevergrad's {self.options.optimizer} failed ({error}); trials are drawn at random")
                )
            self._warned = True
            return self.optimizer.parametrization.sample()

    def _tell(self, candidate: Any, objective: float | None) -> None:
        self.optimizer.tell(candidate, BAD if objective is None else -objective)

    def _try(self, number: int, rung: int, options: dict[str, Any]) -> None:
        trial: dict[str, Any] = {"number": number, "options": options, "objective": None, "error": ""}
        if len(self.rungs.lengths) > 1:
            trial["rung"] = rung
        begin, whole, here = time.perf_counter(), self.rungs.lengths[-1], self.rungs.lengths[rung]
        try:
            trial |= self._ended(number, rung) or self._attempt(
                number, options, Budget(whole, None if here == whole else here)
            )
        except FastServeError as error:
            trial["error"] = str(error)
        trial["seconds"] = round(time.perf_counter() - begin, 2)
        append(self.log, trial)
        self.trials.append(trial)
        figures = (trial["options"], trial["objective"], trial["seconds"], trial.get("measures", {}), trial["error"])
        steps = trial.get("steps") if "rung" in trial else None
        self.run.emit(TrialFinished(number, self.options.trials, *figures, steps=steps))

    def _attempt(self, number: int, options: dict[str, Any], budget: Budget) -> dict[str, Any]:
        done = self.run.attempt(number, options, budget)
        scored = {"objective": done.objective, "scores": dict(done.scores), "steps": done.steps}
        return scored | {"measures": dict(done.measures)}

    def _ended(self, number: int, rung: int) -> dict[str, Any] | None:
        """What the trial came to below, where it was not paused: its training was shorter, or does not pause."""
        before = [one for one in self.trials if one["number"] == number]
        if not rung or before[-1]["steps"] == self.rungs.lengths[rung - 1]:
            return None
        return {name: before[-1][name] for name in ("objective", "scores", "steps", "measures")}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nevergrad's numpy scalars as Python's, rounded to what can be read back exactly."""
    return {
        path: float(f"{value:.6g}") if isinstance(value, float) else int(value) if hasattr(value, "item") else value
        for path, value in values.items()
    }


def append(path: Path, record: Mapping[str, Any]) -> None:
    """One line, on the disk before this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The finished trials; a last line that a kill cut short is not counted."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]
