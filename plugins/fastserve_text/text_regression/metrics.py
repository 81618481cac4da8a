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

ORDINAL_METRICS: Mapping[str, MetricSpec] = {
    "quadratic_kappa": MetricSpec(),
    "accuracy": MetricSpec(unit="%", is_share_of_rows=True),
}
"""Scores of the nearest level; the kappa weights errors by the square of their distance."""


def compute_ordinal_scores(values: Array, truth: Array, levels: int) -> dict[str, float]:
    """Return the scores of numbers that are rounded to levels.

    Args:
        values: The answers, of shape (rows,).
        truth: The numbers of the true levels, from 0, of the same shape.
        levels: How many there are.
    """
    import numpy as np
    from sklearn import metrics

    rounded, levels_of_truth = np.clip(np.rint(values), 0, levels - 1).astype(int), truth.astype(int)
    scores = {"accuracy": float(metrics.accuracy_score(levels_of_truth, rounded))}
    if np.ptp(truth) == 0:
        return scores
    return {
        **scores,
        "quadratic_kappa": float(metrics.cohen_kappa_score(levels_of_truth, rounded, weights="quadratic")),
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
