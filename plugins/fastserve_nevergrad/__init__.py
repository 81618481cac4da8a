"""Tunes the trainer's and the compressors' options with Nevergrad's gradient-free optimizers."""

from __future__ import annotations

from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.plugins import TuneContext, Tuner
from fastserve_nevergrad.distributions import read_condition
from fastserve_nevergrad.options import NevergradOptions


class NevergradTuner(Tuner):
    """The tuner."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("nevergrad", "numpy")
    Options = NevergradOptions

    def __init__(self, options: NevergradOptions) -> None:
        self.options = options

    @property
    def searches(self) -> tuple[str, ...]:
        """The paths of the options that are searched; none: the trainer's ready-made ones."""
        return tuple(self.options.space or ())

    @property
    def conditions(self) -> tuple[str, ...]:
        """The paths that are named in ``when``."""
        space = self.options.space or {}
        return tuple({other: None for path, one in space.items() for other in read_condition(path, one)})

    @hookimpl
    def tune(self, run: TuneContext) -> dict[str, Any]:
        from fastserve_nevergrad.search import search

        return search(run, self.options)
