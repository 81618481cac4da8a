"""Whether a text has one of the intents at all: scores of a model's outputs, and a threshold chosen on validation rows.

The scores are the odds of the likeliest intent (Hendrycks and Gimpel 2017), the energy of the logits (Liu et al. 2020),
the distance of the text's vector from the nearest intent in the metric of Mahalanobis (Podolskiy et al. 2021), and
the odds of the label of out-of-scope texts, if the model was trained on some.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve_core.tasks import Arrays
from fastserve_text.joint_intent_slots.labels import LabelColumns

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

NONE, AUTO = "none", "auto"
SOFTMAX, ENERGY, MAHALANOBIS, TRAINED = "softmax", "energy", "mahalanobis", "trained"
METHODS = (SOFTMAX, ENERGY, MAHALANOBIS, TRAINED)
DEFAULT_METHOD = MAHALANOBIS
"""The method of ``auto`` if validation has no out-of-scope rows to compare the methods on."""
MEDIAN_PROBABILITY = 0.99
"""The probability of the median text in scope, if there are no out-of-scope rows to fit it to."""
SHRINKAGE = 0.01
"""The share of a sphere in the covariance, which may have fewer rows than columns."""


class Evidence(NamedTuple):
    """The outputs of the token that stands for the intent, for one row or for several.

    Attributes:
        logits: Logits of all labels, of shape (rows, labels).
        vectors: The last hidden state, of shape (rows, width); ``None`` while a model is trained.
    """

    logits: Matrix
    vectors: Matrix | None


def join_evidence(parts: Sequence[Evidence]) -> Evidence:
    """Return the evidence of all rows of the parts."""
    import numpy as np

    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Evidence(np.concatenate([part.logits for part in parts]), np.concatenate(vectors) if vectors else None)


def mean_evidence(windows: Sequence[Evidence]) -> Evidence:
    """Return the mean of the windows of one row, as one row."""
    logits, vectors = join_evidence(windows)
    return Evidence(
        logits.mean(axis=0, keepdims=True), None if vectors is None else vectors.mean(axis=0, keepdims=True)
    )


def compute_scores(method: str, evidence: Evidence, columns: LabelColumns, calibration: Arrays) -> Matrix:
    """Return a score of each row, which is the higher the more certainly it is in scope.

    Args:
        method: One of ``METHODS``.
        evidence: The outputs.
        columns: The columns of the logits.
        calibration: The intents' vectors, for the distance.
    """
    import numpy as np

    logits = evidence.logits[:, columns.inside].astype(np.float64)
    scores: Matrix
    if method == SOFTMAX:
        best = logits.max(axis=-1)
        others = np.where(np.arange(logits.shape[-1]) == logits.argmax(axis=-1)[:, None], -np.inf, logits)
        scores = best - _log_sum_exp(others)
    elif method == ENERGY:
        scores = _log_sum_exp(logits)
    elif method == TRAINED and columns.outside is not None:
        scores = _log_sum_exp(logits) - evidence.logits[:, columns.outside]
    else:
        assert evidence.vectors is not None, "engines compute the last hidden state, because the task declares it"
        points = evidence.vectors.astype(np.float64) @ calibration["whitening"]
        means = calibration["means"].astype(np.float64)
        squares = (points**2).sum(-1)[:, None] - 2 * points @ means.T + (means**2).sum(-1)
        scores = -squares.min(axis=-1)
    return scores


def _log_sum_exp(values: Matrix) -> Matrix:
    import numpy as np

    largest = values.max(axis=-1)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):  # no other intent
        result: Matrix = largest + np.log(np.exp(values - largest[:, None]).sum(axis=-1))
    return result


def find_centers(batches: Iterator[tuple[Matrix, Sequence[int]]], classes: int) -> Arrays:
    """Return the means of the intents, and the matrix that makes distances from them comparable.

    Args:
        batches: Vectors of shape (rows, width) with the number of each row's intent, negative for none.
        classes: The number of intents.

    Returns:
        ``means`` of shape (intents seen, width) in the space of ``whitening``, of shape (width, width).
    """
    import numpy as np

    sums, counts, moments = np.zeros((classes, 1)), np.zeros(classes), np.zeros((1, 1))
    for vectors, intents in batches:
        numbers = np.asarray(intents)
        points, numbers = vectors[numbers >= 0].astype(np.float64), numbers[numbers >= 0]
        of_batch = np.zeros((classes, vectors.shape[-1]))
        np.add.at(of_batch, numbers, points)
        sums, counts, moments = (
            sums + of_batch,
            counts + np.bincount(numbers, minlength=classes),
            moments + points.T @ points,
        )
    seen = counts > 0
    means = sums[seen] / counts[seen][:, None]
    scatter = (moments - (sums[seen].T @ means)) / counts.sum()
    scale = max(float(np.trace(scatter)) / len(scatter), 1e-12)
    values, axes = np.linalg.eigh((1 - SHRINKAGE) * scatter + SHRINKAGE * scale * np.eye(len(scatter)))
    whitening = axes / np.sqrt(np.maximum(values, SHRINKAGE * scale * 0.5))
    return {"means": (means @ whitening).astype(np.float32), "whitening": whitening.astype(np.float32)}


def choose_method(scores: dict[str, Matrix], is_in_scope: Matrix) -> str:
    """Return the method that tells the validation rows in and out of scope apart best, by the area under the curve."""
    from sklearn.metrics import roc_auc_score

    if len(scores) == 1 or is_in_scope.all() or not is_in_scope.any():
        return DEFAULT_METHOD if DEFAULT_METHOD in scores else next(iter(scores))
    return max(scores, key=lambda method: roc_auc_score(is_in_scope, scores[method]))


def choose_threshold(scores: Matrix, is_in_scope: Matrix, share: float) -> tuple[float, float]:
    """Return the score below which a text is out of scope, and the slope of the probability there.

    Args:
        scores: The scores of the validation rows.
        is_in_scope: Which of them are in scope.
        share: The share of the rows in scope that must stay in scope.
    """
    import numpy as np

    inside = scores[is_in_scope] if is_in_scope.any() else scores
    threshold = float(np.quantile(inside, 1 - share, method="lower"))
    if is_in_scope.all() or not is_in_scope.any():
        distance = float(np.median(inside)) - threshold
        return threshold, math.log(MEDIAN_PROBABILITY / (1 - MEDIAN_PROBABILITY)) / max(distance, 1e-6)
    return threshold, _fit_slope(scores - threshold, is_in_scope)


def _fit_slope(distances: Matrix, is_in_scope: Matrix) -> float:
    """Return the slope of a logistic curve through 0.5 at 0, with rows in and out of scope of the same weight."""
    from sklearn.linear_model import LogisticRegression

    spread = max(float(abs(distances).mean()), 1e-12)
    model = LogisticRegression(fit_intercept=False, class_weight="balanced")
    model.fit((distances / spread)[:, None], is_in_scope)
    return max(float(model.coef_[0, 0]), 1e-3) / spread


def compute_margins(evidence: Evidence, columns: LabelColumns, calibration: Arrays) -> Matrix:
    """Return the log-odds that each row is in scope, which are 0 at the threshold."""
    scores = compute_scores(str(calibration["method"]), evidence, columns, calibration)
    margins: Matrix = calibration["slope"] * (scores - calibration["threshold"])
    return margins


def to_probability(margin: float) -> float:
    """Return the probability of log-odds."""
    return 0.5 * (1 + math.tanh(0.5 * margin))
