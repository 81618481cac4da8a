"""The tuner's options and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastserve_core.errors import ErrorCollector, OptionError
from fastserve_nevergrad.distributions import read_condition, read_range
from fastserve_nevergrad.objectives import Objectives
from fastserve_nevergrad.study_log import find_log

RAY = "ray"
DEFAULT_FULL_TRIALS = 6
"""The default budget, in steps of full trials."""


@dataclass
class NevergradOptions:
    """Options of the tuner, checked when they are created (``OptionError``).

    ``trial_steps`` is the number of training steps of one full trial, and ``steps`` limits those of all trials
    together. No trial begins after ``timeout_s`` seconds. ``trials`` null means as many as the ``steps`` suffice for;
    if both are null, the budget is the steps of six full trials.

    With ``reduction_factor`` 3 a trial begins with a third, a ninth … of ``trial_steps``, but at least
    ``min_resource``, and the best third of each length continues from its checkpoint; null runs every trial in full.

    ``space`` maps option paths to ranges: ``[low, high]``, ``{log: [low, high]}``, ``{int: [low, high]}`` or
    ``{choice: [a, b, …]}``, with ``when: {option: value}`` if the option is not always searched. Null takes the ranges
    that the trainer suggests, more of them for more trials.

    ``patience`` stops the search after so many trials without improvement. ``folds`` scores each trial on so many folds
    of the training and validation rows, and ``repeats`` with so many seeds. ``workers`` is the number of concurrent
    trials, or ``ray`` for as many as the machines of a Ray cluster can run. ``warm_start`` is an earlier run or study.
    ``objectives`` are figures to optimize at once, such as ``[quality, latency_ms_p50]``, and ``constraints`` are
    bounds of figures, such as ``latency_ms_p50 <= 3``.
    """

    trials: int | None = None
    trial_steps: int = 60
    steps: int | None = None
    timeout_s: float | None = None
    patience: int | None = None
    reduction_factor: int | None = 3
    min_resource: int = 40
    folds: int | None = None
    repeats: int = 1
    workers: int | str = 1
    optimizer: str | None = None
    warm_start: str | None = None
    objectives: list[str] | None = None
    constraints: list[str] | None = None
    space: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._check_ranges()
        faults = ErrorCollector()
        with faults.collect():
            Objectives.parse(self.objectives, self.constraints, self.recipes)
        for path, description in (self.space or {}).items():
            with faults.collect():
                read_range(path, description)
                read_condition(path, description)
        with faults.collect():
            if self.warm_start is not None:
                find_log(self.warm_start)
        faults.raise_if_any()

    def _check_ranges(self) -> None:
        for name in ("trials", "trial_steps", "steps", "patience", "min_resource", "repeats", "workers"):
            value = getattr(self, name)
            if isinstance(value, str):
                if value != RAY:
                    raise OptionError(f"tune.nevergrad.workers must be a number or {RAY}, not '{value}'")
            elif value is not None and value < 1:
                raise OptionError(f"tune.nevergrad.{name} must be at least 1, not {value}")
        for name in ("reduction_factor", "folds"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise OptionError(f"tune.nevergrad.{name} must be at least 2, not {value}")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise OptionError(f"tune.nevergrad.timeout_s must be above 0, not {self.timeout_s}")
        if self.steps is not None and self.steps < self.trial_steps * self.samples:
            trainings = f", {self.samples} trainings each" if self.samples > 1 else ""
            raise OptionError(
                f"tune.nevergrad.steps={self.steps} is less than one trial (trial_steps={self.trial_steps}{trainings})"
            )

    @property
    def recipes(self) -> bool:
        """Whether compressors' options are searched, so that trials produce models that are measured."""
        return any(path.startswith("compress.") for path in self.space or ())

    @property
    def samples(self) -> int:
        """The number of trainings of a trial."""
        return (self.folds or 1) * self.repeats
