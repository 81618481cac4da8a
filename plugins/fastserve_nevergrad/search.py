"""The search: ask, try, write down, tell; a killed search goes on from what was written down."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nevergrad as ng

from fastserve_core.errors import BadOption, FastServeError, StageFailed, suggest
from fastserve_core.events import TrialFinished, Warned
from fastserve_core.run import Budget, Run
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

    def go(self) -> None:
        """Trials until the budget or the patience is used up."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nevergrad warns of its own small budgets
            for number in range(self.options.trials):
                if number >= len(self.trials) and self._enough():
                    return
                candidate = self._ask(number)
                if number >= len(self.trials):
                    self._try(number, self.first if candidate is None else candidate.value)
                if candidate is not None:
                    self._tell(candidate, self.trials[number]["objective"])

    def best(self) -> dict[str, Any]:
        done = [trial for trial in self.trials if trial["objective"] is not None]
        if not done:
            causes = Counter(trial["error"] for trial in self.trials)
            (cause, times), more = causes.most_common(1)[0], len(causes) - 1
            others = f" ({times} of {len(self.trials)} trials; {more} other causes)" if more else ""
            raise StageFailed(f"every trial failed: {cause}{others}")
        return dict(max(done, key=lambda trial: trial["objective"])["options"])

    def _ask(self, number: int) -> Any:
        """The next candidate; what was tried before is told again, not tried again.

        Trial 0 is what would be done anyway: ``None`` where that lies outside the space.
        """
        if number == 0:
            try:
                return self.optimizer.parametrization.spawn_child(new_value=self.first)
            except (ValueError, TypeError):  # a number out of its range, or null
                return None
        earlier = {json.dumps(one["options"]): one["objective"] for one in self.trials[:number]}
        for _ in range(REPEATS):
            candidate = self.optimizer.ask()
            known = json.dumps(plain(candidate.value))
            if known not in earlier:
                break
            self._tell(candidate, earlier[known])
        return candidate

    def _tell(self, candidate: Any, objective: float | None) -> None:
        self.optimizer.tell(candidate, BAD if objective is None else -objective)

    def _try(self, number: int, values: Mapping[str, Any]) -> None:
        trial: dict[str, Any] = {"number": number, "options": plain(values), "objective": None, "error": ""}
        begin = time.perf_counter()
        try:
            attempt = self.run.attempt(number, trial["options"], Budget(steps=self.options.trial_steps))
            trial |= {"objective": attempt.objective, "scores": dict(attempt.scores), "steps": attempt.steps}
            trial |= {"measures": dict(attempt.measures)}
        except FastServeError as error:
            trial["error"] = str(error)
        trial["seconds"] = round(time.perf_counter() - begin, 2)
        append(self.log, trial)
        self.trials.append(trial)
        figures = (trial["options"], trial["objective"], trial["seconds"], trial.get("measures", {}), trial["error"])
        self.run.emit(TrialFinished(number, self.options.trials, *figures))

    def _enough(self) -> bool:
        errors = [trial["error"] for trial in self.trials]
        if len(errors) >= HOPELESS and len(set(errors)) == 1 and errors[0]:
            return True
        spent = sum(trial["seconds"] for trial in self.trials)
        if self.trials and self.options.seconds is not None and spent >= self.options.seconds:
            return True
        used = sum(trial.get("steps", 0) for trial in self.trials)
        if self.options.steps is not None and used + self.options.trial_steps > self.options.steps:
            return True
        scores = [BAD * -1 if one["objective"] is None else one["objective"] for one in self.trials]
        patience = self.options.patience
        return (
            patience is not None and len(scores) > patience and len(scores) - 1 - scores.index(max(scores)) >= patience
        )


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
