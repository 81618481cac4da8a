"""The score from which on a text has a label: for each label the one with the best F1 on held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MIN_POSITIVES = 10
"""A label with fewer held-out rows takes the best threshold of all labels together: its own would be chance."""
DEFAULT_THRESHOLD = 0.5


def choose_thresholds(probabilities: Array, truth: Array) -> Array:
    """Return a threshold for each label.

    Args:
        probabilities: Shape (rows, labels).
        truth: Whether a row has a label, of the same shape.
    """
    import numpy as np

    common = _best_threshold(probabilities.ravel(), truth.ravel())
    thresholds = np.full(truth.shape[1], common)
    for label in np.flatnonzero(truth.sum(axis=0) >= MIN_POSITIVES):
        thresholds[label] = _best_threshold(probabilities[:, label], truth[:, label])
    return thresholds


def _best_threshold(probabilities: Array, truth: Array) -> float:
    """Return the threshold with the highest F1, in the middle between two scores; the default without a positive."""
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    if not truth.any():
        return DEFAULT_THRESHOLD
    precision, recall, scores = precision_recall_curve(truth, probabilities)
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], np.finfo(float).tiny)
    best = int(f1.argmax())
    lower = scores[best - 1] if best else np.max(probabilities[probabilities < scores[0]], initial=0.0)
    return float((scores[best] + lower) / 2)
