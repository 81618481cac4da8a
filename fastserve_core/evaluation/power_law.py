"""A power law of the error by the number of training rows (Hestness et al. 2017), with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_POINTS = 3
"""Two points fit every line, and show nothing of its uncertainty."""
QUANTILES = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
"""Student's t for an interval of 80 %, by the degrees of freedom from 1."""
NORMAL_QUANTILE = 1.282
"""The limit of ``QUANTILES``."""


@dataclass(frozen=True)
class PowerLaw:
    """``error = scale * rows ** -exponent``, a line in logarithms.

    Attributes:
        scale: The error of one row.
        exponent: Above 0 if the error falls.
        center: The mean of the logarithms of the rows.
        spread: The sum of their squared distances from the mean.
        deviation: The standard deviation of the logarithms of the errors around the line.
        points: The number of points.
    """

    scale: float
    exponent: float
    center: float
    spread: float
    deviation: float
    points: int

    def predict(self, rows: float) -> tuple[float, float, float]:
        """Return the error expected with a number of rows, and the bounds of the 80 % prediction interval."""
        x = math.log(rows)
        expected = math.log(self.scale) - self.exponent * x
        distance = 1 + 1 / self.points + (x - self.center) ** 2 / self.spread
        freedom = self.points - 2
        quantile = QUANTILES[freedom - 1] if freedom <= len(QUANTILES) else NORMAL_QUANTILE
        margin = quantile * self.deviation * math.sqrt(distance)
        return math.exp(expected), math.exp(expected - margin), math.exp(expected + margin)


def fit_power_law(rows: Sequence[int], errors: Sequence[float]) -> PowerLaw | None:
    """Fit a power law by least squares of the logarithms; ``None`` for fewer than three different numbers of rows.

    Args:
        rows: The numbers of training rows.
        errors: The errors with them, above 0.
    """
    if len(set(rows)) < MIN_POINTS:
        return None
    xs, ys = [math.log(count) for count in rows], [math.log(error) for error in errors]
    center, mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - center) ** 2 for x in xs)
    slope = sum((x - center) * (y - mean) for x, y in zip(xs, ys, strict=True)) / spread
    residuals = [y - mean - slope * (x - center) for x, y in zip(xs, ys, strict=True)]
    deviation = math.sqrt(sum(residual**2 for residual in residuals) / (len(xs) - 2))
    return PowerLaw(math.exp(mean - slope * center), -slope, center, spread, deviation, len(xs))
