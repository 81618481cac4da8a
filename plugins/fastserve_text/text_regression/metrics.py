"""The scores of numbers, by scipy and scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import MetricSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

METRICS: Mapping[str, MetricSpec] = {
    "spearman": MetricSpec(),
    "pearson": MetricSpec(),
    "r2": MetricSpec(),
    "rmse": MetricSpec(higher_is_better=False),
    "mse": MetricSpec(higher_is_better=False),
    "mae": MetricSpec(higher_is_better=False),
}


def compute_scores(values: Array, truth: Array) -> dict[str, float]:
    """Return all scores that are defined; a correlation is not if all true numbers are equal, and 0 if all others are.

    Args:
        values: The answers, of shape (rows,).
        truth: The true numbers, of the same shape.
    """
    import numpy as np
    from scipy import stats
    from sklearn import metrics

    mse = float(metrics.mean_squared_error(truth, values))
    scores = {"rmse": mse**0.5, "mse": mse, "mae": float(metrics.mean_absolute_error(truth, values))}
    if np.ptp(truth) == 0:
        return scores
    is_constant = np.ptp(values) == 0
    correlations = {
        "spearman": 0.0 if is_constant else float(stats.spearmanr(values, truth).statistic),
        "pearson": 0.0 if is_constant else float(stats.pearsonr(values, truth).statistic),
    }
    return {**correlations, "r2": float(metrics.r2_score(truth, values)), **scores}
