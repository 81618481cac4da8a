"""The scores of several labels a text, by scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import MetricSpec
from fastserve_text.confidence import expected_calibration_error
from fastserve_text.text_classification.metrics import CALIBRATION, mean_ranking

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DECISIONS: Mapping[str, MetricSpec] = {
    "micro_f1": MetricSpec(unit="%"),
    "macro_f1": MetricSpec(unit="%"),
    "samples_f1": MetricSpec(unit="%"),
    "subset_accuracy": MetricSpec(unit="%", is_share_of_rows=True),
}
"""Scores of the labels above their thresholds."""
RANKINGS: Mapping[str, MetricSpec] = {"auroc": MetricSpec(), "average_precision": MetricSpec()}
"""Scores of the probabilities, means over the labels."""
ALL: Mapping[str, MetricSpec] = {**DECISIONS, **RANKINGS, **CALIBRATION}


def compute_scores(found: Array, truth: Array, probabilities: Array, metric: str) -> dict[str, float]:
    """Return the scores of the decisions, the chosen one if it is defined, and the calibration error.

    Args:
        found: Whether a row gets a label, of shape (rows, labels).
        truth: Whether a row has a label, of the same shape.
        probabilities: Of the same shape.
        metric: The chosen metric.
    """
    from sklearn import metrics

    def f1(average: str, undefined: float) -> Callable[[], float]:
        return lambda: metrics.f1_score(truth, found, average=average, zero_division=undefined)

    functions: dict[str, Callable[[], float | None]] = {
        "micro_f1": f1("micro", 0.0),
        "macro_f1": f1("macro", math.nan),  # which leaves out labels that no row has and none gets
        "samples_f1": f1("samples", 1.0),  # a text without labels that gets none is right
        "subset_accuracy": lambda: metrics.accuracy_score(truth, found),
    }
    if metric in RANKINGS:
        functions[metric] = lambda: mean_ranking(metric, truth, probabilities)
    values = {name: function() for name, function in functions.items()}
    scores = {name: float(value) for name, value in values.items() if value is not None and not math.isnan(value)}
    return {**scores, "ece": expected_calibration_error(probabilities.ravel(), truth.ravel())}
