"""The tuner: searches options of the trainer and the compressors with Nevergrad's gradient-free optimizers."""

from __future__ import annotations

from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.plugins import TuneContext, Tuner
from fastserve_nevergrad.distributions import read_condition
from fastserve_nevergrad.options import DEFAULT_FULL_TRIALS, NevergradOptions


class NevergradTuner(Tuner):
    """Searches options with Nevergrad and successive halving.

    Args:
        options: The options of ``tune.nevergrad``.
    """

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("nevergrad", "numpy")
    Options = NevergradOptions

    def __init__(self, options: NevergradOptions) -> None:
        self.options = options

    @property
    def searches(self) -> tuple[str, ...]:
        """The paths of the options to search; empty means the space that the trainer suggests."""
        return tuple(self.options.space or ())

    @property
    def conditions(self) -> tuple[str, ...]:
        """The paths of the options in conditions."""
        space = self.options.space or {}
        return tuple(
            {other: None for path, description in space.items() for other in read_condition(path, description)}
        )

    def search_size(self) -> tuple[int, int] | None:
        """Return the maximum number of trainings and of their steps, unless compressors' options are searched."""
        options = self.options
        if options.recipes or options.workers != 1:
            return None
        trainings = options.trials * options.samples if options.trials is not None else None
        steps = options.steps or (trainings or DEFAULT_FULL_TRIALS * options.samples) * options.trial_steps
        return trainings or -(-steps // options.trial_steps), steps

    def shorter_options(self) -> list[dict[str, Any]]:
        """Propose fewer trials, if their number is set."""
        return [{"trials": trials} for trials in range((self.options.trials or 0) - 1, 1, -1)]

    @hookimpl
    def tune(self, run: TuneContext) -> dict[str, Any]:
        """Search the best options, by path; see ``search.search``."""
        from fastserve_nevergrad.search import search

        return search(run, self.options)
