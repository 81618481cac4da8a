"""The scores of one label a text, by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import MetricSpec, softmax
from fastserve_text.confidence import expected_calibration_error

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DECISIONS: Mapping[str, MetricSpec] = {
    "accuracy": MetricSpec(unit="%", is_share_of_rows=True),
    "macro_f1": MetricSpec(unit="%"),
    "weighted_f1": MetricSpec(unit="%"),
    "balanced_accuracy": MetricSpec(unit="%"),
    "mcc": MetricSpec(),
    "cohen_kappa": MetricSpec(),
}
"""Scores of the most likely labels."""
RANKINGS: Mapping[str, MetricSpec] = {
    "auroc": MetricSpec(),
    "average_precision": MetricSpec(),
    "log_loss": MetricSpec(higher_is_better=False),
}
"""Scores of the probabilities; of two labels the second one is the positive, of more all count alike."""
CALIBRATION: Mapping[str, MetricSpec] = {
    "ece": MetricSpec(higher_is_better=False, unit="%"),
    "ece_uncalibrated": MetricSpec(higher_is_better=False, unit="%"),
}
"""The expected calibration error of the scores, and that before temperature scaling."""
DEFAULTS = ("accuracy", "macro_f1")


def compute_scores(logits: Array, truth: Array, metric: str, temperature: float | None) -> dict[str, float]:
    """Return the default scores, the chosen one if it is defined, and the calibration errors.

    Args:
        logits: Shape (rows, labels).
        truth: The numbers of the true labels, of shape (rows,).
        metric: The chosen metric.
        temperature: That of the scores; ``None`` before the calibration.
    """
    chosen, probabilities = logits.argmax(axis=1), softmax(logits / (temperature or 1.0))
    scores: dict[str, float] = {}
    for name in dict.fromkeys((*DEFAULTS, metric)):
        value = _decision_score(name, truth, chosen) if name in DECISIONS else _ranking(name, truth, probabilities)
        if value is not None:
            scores[name] = float(value)
    scores["ece"] = _calibration_error(probabilities, truth)
    if temperature is not None:
        scores["ece_uncalibrated"] = _calibration_error(softmax(logits), truth)
    return scores


def _decision_score(name: str, truth: Array, chosen: Array) -> float:
    from sklearn import metrics

    functions: dict[str, Callable[[], float]] = {
        "accuracy": lambda: metrics.accuracy_score(truth, chosen),
        "macro_f1": lambda: metrics.f1_score(truth, chosen, average="macro", zero_division=0),
        "weighted_f1": lambda: metrics.f1_score(truth, chosen, average="weighted", zero_division=0),
        "balanced_accuracy": lambda: metrics.recall_score(
            truth, chosen, labels=sorted(set(truth.tolist())), average="macro", zero_division=0
        ),
        "mcc": lambda: metrics.matthews_corrcoef(truth, chosen),
        "cohen_kappa": lambda: _kappa(truth, chosen),
    }
    return functions[name]()


def _kappa(truth: Array, chosen: Array) -> float:
    from sklearn.metrics import cohen_kappa_score

    is_constant = len(set(truth.tolist()) | set(chosen.tolist())) == 1  # 0 / 0
    return 0.0 if is_constant else float(cohen_kappa_score(truth, chosen))


def _ranking(name: str, truth: Array, probabilities: Array) -> float | None:
    """Return a score of the probabilities; ``None`` if no label has rows with and rows without it."""
    import numpy as np

    if name == "log_loss":
        return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], np.finfo(np.float32).tiny)).mean())
    first = 1 if probabilities.shape[1] == 2 else 0
    columns = range(first, probabilities.shape[1])
    return mean_ranking(name, np.stack([truth == label for label in columns], axis=1), probabilities[:, first:])


def mean_ranking(name: str, truth: Array, scores: Array) -> float | None:
    """Return the mean of ``auroc`` or ``average_precision`` over the labels for which it is defined.

    Args:
        name: The metric.
        truth: Whether a row has a label, of shape (rows, labels).
        scores: Any scores of the same shape.
    """
    import numpy as np
    from sklearn import metrics

    function = {"auroc": metrics.roc_auc_score, "average_precision": metrics.average_precision_score}[name]
    values = [function(truth[:, label], scores[:, label]) for label in _mixed_labels(truth)]
    return float(np.mean(values)) if values else None


def _mixed_labels(truth: Array) -> list[int]:
    """Return the labels that some rows have and some have not."""
    import numpy as np

    mixed: list[int] = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0)).tolist()
    return mixed


def _calibration_error(probabilities: Array, truth: Array) -> float:
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)
