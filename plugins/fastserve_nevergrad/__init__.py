"""Tunes the trainer's and the compressors' options with Nevergrad's gradient-free optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.errors import BadOption, Collector
from fastserve_core.run import Run
from fastserve_nevergrad.ranges import read_range


@dataclass
class NevergradOptions:
    """``trial_steps`` are the training steps of one trial; ``steps`` bounds those of all trials together, and
    ``seconds`` is when no further trial begins. With ``halving``, 3 for one, a trial begins with ``trial_steps`` over
    3, or over 9 or 27 as far as that is enough to judge by, and the best third of each length goes on from where it is.

    ``space`` names the options to search by path, each as ``[low, high]``, ``{log: [low, high]}``,
    ``{int: [low, high]}`` or ``{choice: [a, b, …]}``; null takes the learning rate and the batch size.
    ``patience`` stops after that many trials without gain.
    """

    trials: int = 6
    trial_steps: int = 60
    steps: int | None = None
    seconds: float | None = None
    patience: int | None = None
    halving: int | None = None
    optimizer: str = "NGOpt"
    space: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "trial_steps", "steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadOption(f"tune.nevergrad.{name} must be at least 1, not {value}")
        if self.halving is not None and self.halving < 2:
            raise BadOption(f"tune.nevergrad.halving must be at least 2, not {self.halving}")
        if self.seconds is not None and self.seconds <= 0:
            raise BadOption(f"tune.nevergrad.seconds must be more than 0, not {self.seconds}")
        if self.steps is not None and self.steps < self.trial_steps:
            raise BadOption(
                f"tune.nevergrad.steps={self.steps} is less than one trial (trial_steps={self.trial_steps})"
            )
        faults = Collector()
        for path, description in (self.space or {}).items():
            with faults.collect():
                read_range(path, description)
        faults.raise_if_any()


class NevergradTuner:
    """The tuner."""

    api_version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("nevergrad", "numpy")
    Options = NevergradOptions

    def __init__(self, options: NevergradOptions) -> None:
        self.options = options

    @property
    def searches(self) -> tuple[str, ...]:
        """The paths of the options that are searched; none: the trainer's ready-made ones."""
        return tuple(self.options.space or ())

    @hookimpl
    def tune(self, run: Run) -> dict[str, Any]:
        from fastserve_nevergrad.search import search

        return search(run, self.options)
