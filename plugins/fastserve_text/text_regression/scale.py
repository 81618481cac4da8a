"""Mean and scale of the numbers of a training split."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of numbers; ``root`` is that of their mean square."""

    mean: float = 0.0
    deviation: float = 1.0

    @property
    def root(self) -> float:
        """The root of the mean square."""
        return math.hypot(self.mean, self.deviation)

    @classmethod
    def of(cls, targets: Iterable[Any]) -> Scale:
        """Measure numbers, of which those that are not finite do not count; equal ones have the deviation 1."""
        import numpy as np

        values = np.fromiter(targets, dtype=np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return cls()
        return cls(float(values.mean()), float(values.std()) or 1.0)
