"""Confidence that means something: temperature scaling, and the error of confidences that is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import Doubt

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
BINS = 15
"""The number of bins of the expected calibration error, as in Guo et al. 2017."""


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature with the lowest loss (Guo et al. 2017).

    Args:
        loss: The loss on held-out rows of logits that are divided by a temperature.
    """
    from scipy.optimize import minimize_scalar

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(lambda value: loss(math.exp(value)), bounds=bounds, method="bounded")
    return float(math.exp(found.x))


def smoothing_of(count: int) -> float:
    """Return how much of a target of so many held-out rows to give to the other outcomes (Platt 1999).

    Without it, a model that is right on all of them would be certain of everything.
    """
    return 1 / (count + 2)


def contradict_labels(
    probabilities: Iterable[Array], targets: Iterable[int | None], labels: Sequence[str]
) -> list[Doubt | None]:
    """Return for each row the label that a model contradicts; ``None`` if it agrees, or there is no label.

    Args:
        probabilities: The probability of each label, row by row.
        targets: The number of each row's label; ``None`` or negative for a row without one.
        labels: The labels.
    """
    doubts: list[Doubt | None] = []
    for row, target in zip(probabilities, targets, strict=True):
        best = int(row.argmax())
        if target is None or target < 0 or target == best:
            doubts.append(None)
        else:
            doubts.append(Doubt(labels[target], labels[best], float(row[best])))
    return doubts


def expected_calibration_error(confidences: Array, outcomes: Array) -> float:
    """Return the mean distance of confidence and frequency over bins of equal width, weighted by their rows.

    Args:
        confidences: Probabilities of shape (n,).
        outcomes: Whether each came true, of shape (n,).
    """
    import numpy as np

    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidences - outcomes, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidences))
