"""The tuner's options and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastserve_core.errors import ErrorCollector, InvalidOption
from fastserve_nevergrad.distributions import read_condition, read_range
from fastserve_nevergrad.objectives import Objectives
from fastserve_nevergrad.study_log import find_log

RAY = "ray"


@dataclass
class NevergradOptions:
    """``trial_steps`` are the training steps of one trial; ``steps`` bounds those of all trials together, and
    ``timeout_s`` is when no further trial begins. ``trials`` null means as many as the ``steps`` are enough for, where
    these are not said either those of six whole trials. With ``reduction_factor`` 3 a trial begins with
    ``trial_steps`` over 3, or over 9 or 27, as long as that is ``min_resource`` or more, and the best third of each
    length goes on from where it
    is; null has every trial run whole.

    ``space`` names the options to search by path, each as ``[low, high]``, ``{log: [low, high]}``,
    ``{int: [low, high]}`` or ``{choice: [a, b, …]}``, where it is not always searched with ``when: {option: value}``;
    null takes what the trainer suggests, more of it for more trials. ``patience`` stops after that many trials without
    gain. ``folds`` scores each trial on that many parts of the training and validation rows in turn, and ``repeats``
    with as many seeds. ``workers`` trials are made at once, or with ``ray`` as many as the machines of a Ray cluster.
    ``warm_start`` is an earlier run or study to learn from. ``objectives`` are figures that are searched for at once,
    such as ``[quality, latency_ms_p50]``, and ``constraints`` limits of theirs, such as ``latency_ms_p50 <= 3``.
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
        for name in ("trials", "trial_steps", "steps", "patience", "min_resource", "repeats", "workers"):
            value = getattr(self, name)
            if isinstance(value, str):
                if value != RAY:
                    raise InvalidOption(f"tune.nevergrad.workers is a number or {RAY}, not '{value}'")
            elif value is not None and value < 1:
                raise InvalidOption(f"tune.nevergrad.{name} must be at least 1, not {value}")
        if self.reduction_factor is not None and self.reduction_factor < 2:
            raise InvalidOption(f"tune.nevergrad.reduction_factor must be at least 2, not {self.reduction_factor}")
        if self.folds is not None and self.folds < 2:
            raise InvalidOption(f"tune.nevergrad.folds must be at least 2, not {self.folds}")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise InvalidOption(f"tune.nevergrad.timeout_s must be more than 0, not {self.timeout_s}")
        whole = self.trial_steps * self.samples
        if self.steps is not None and self.steps < whole:
            times = f", {self.samples} trainings each" if self.samples > 1 else ""
            raise InvalidOption(
                f"tune.nevergrad.steps={self.steps} is less than one trial (trial_steps={self.trial_steps}{times})"
            )
        faults = ErrorCollector()
        with faults.collect():
            Objectives.read(self.objectives, self.constraints, self.recipes)
        for path, description in (self.space or {}).items():
            with faults.collect():
                read_range(path, description)
                read_condition(path, description)
        with faults.collect():
            if self.warm_start is not None:
                find_log(self.warm_start)
        faults.raise_if_any()

    @property
    def recipes(self) -> bool:
        """Whether compressors' options are searched, so that trials make models that are measured."""
        return any(path.startswith("compress.") for path in self.space or ())

    @property
    def samples(self) -> int:
        """How many trainings a trial has."""
        return (self.folds or 1) * self.repeats
