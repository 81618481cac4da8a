"""The methods that tell texts out of scope, and the choice of the method and the threshold on validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastserve_core.tasks import Arrays
from fastserve_text.joint_intent_slots import calibration
from fastserve_text.joint_intent_slots.labels import LabelColumns
from fastserve_text.joint_intent_slots.out_of_scope import (
    METHODS,
    Evidence,
    compute_margins,
    compute_scores,
    find_centers,
    to_probability,
)

COLUMNS = LabelColumns(["intent:a", "intent:b", "intent:oos", "slot:O"], "oos")
CENTERS = np.array([[5.0, 0, 0], [0, 5.0, 0]])
METHOD_SET = list(METHODS)


def draw(rows: int, seed: int = 0, outside: int = 0) -> Iterator[calibration.LabelledEvidence]:
    """Rows near two centers with sure logits, and rows out of scope elsewhere with unsure ones."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, 2, rows)
    vectors = np.concatenate([CENTERS[numbers], np.tile([0, 0, 8.0], (outside, 1))])
    vectors = vectors + 0.3 * generator.standard_normal(vectors.shape)
    logits = generator.standard_normal((rows + outside, 4))
    logits[np.arange(rows), numbers] += 6
    logits[rows:, 2] += 6
    intents = ["ab"[number] for number in numbers] + ["oos"] * outside
    half = len(intents) // 2
    for part in (slice(0, half), slice(half, None)):
        evidence = Evidence(logits[part].astype(np.float32), vectors[part].astype(np.float32))
        yield calibration.LabelledEvidence(evidence, intents[part])


def calibrate(methods: list[str], outside: int, share: float = 0.95, rows: int = 400) -> Arrays:
    centers = calibration.make_centers(draw(rows), COLUMNS)
    return calibration.choose(methods, draw(rows, 1, outside), COLUMNS, "oos", share, centers)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("outside", [0, 50])
def test_each_method_keeps_the_share_and_finds_the_rest(method: str, outside: int) -> None:
    chosen = calibrate([method], outside)
    assert str(chosen["method"]) == method
    (inside_part, outside_part) = (
        np.concatenate([compute_margins(part.evidence, COLUMNS, chosen) for part in draw(*given)])
        for given in ((2000, 2, 0), (0, 3, 500))
    )
    assert 0.9 < (inside_part >= 0).mean() < 0.99
    assert (outside_part < 0).mean() > (0.98 if method in ("mahalanobis", "trained") else 0.4)
    assert set(chosen) - {"means", "whitening"} == {"method", "threshold", "slope"}
    assert chosen["slope"] > 0


def test_the_best_method_on_validation_is_chosen() -> None:
    assert str(calibrate(["softmax", "mahalanobis"], 50)["method"]) == "mahalanobis"
    parts = list(draw(400, 1, 50))
    swapped = [  # the vectors tell nothing
        calibration.LabelledEvidence(Evidence(part.evidence.logits, 0 * part.evidence.logits), part.intents)
        for part in parts
    ]
    centers = find_centers(iter([(np.zeros((4, 4)), [0, 1, 0, 1])]), 2)
    chosen = calibration.choose(["trained", "mahalanobis"], iter(swapped), COLUMNS, "oos", 0.95, centers)
    assert str(chosen["method"]) == "trained"
    assert "whitening" not in chosen


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_few_rows_are_enough(rows: int) -> None:
    """One example an intent has no spread, and a validation of two rows has hardly a quantile."""
    numbers = [number % 2 for number in range(rows)]
    centers = find_centers(iter([(CENTERS[numbers].astype(np.float32), numbers)]), 2)
    parts = [calibration.LabelledEvidence(Evidence(np.zeros((2, 4)), CENTERS.astype(np.float32)), ["a", "b"])]
    chosen = calibration.choose(["mahalanobis"], iter(parts), COLUMNS, "oos", 0.97, centers)
    margins = compute_margins(Evidence(np.zeros((2, 4)), np.array([[5.0, 0, 0], [0, 0, 90]])), COLUMNS, chosen)
    assert np.isfinite(margins).all()
    assert margins[0] >= 0 > margins[1]


def test_an_intent_without_training_rows_has_no_center() -> None:
    centers = find_centers(iter([(CENTERS[[0, 0]].astype(np.float32), [0, 0])]), 2)
    assert centers["means"].shape == (1, 3)


@pytest.mark.parametrize("intents", [["oos"] * 4, ["a", "b", "a", "b"]])
def test_validation_of_one_kind_has_a_threshold(intents: list[str]) -> None:
    evidence = Evidence(np.arange(16.0).reshape(4, 4), np.ones((4, 3)))
    chosen = calibration.choose(
        METHOD_SET[:2], iter([calibration.LabelledEvidence(evidence, intents)]), COLUMNS, "oos", 0.97, {}
    )
    assert str(chosen["method"]) == "softmax"
    assert np.isfinite([chosen["threshold"], chosen["slope"]]).all()


def test_scores_do_not_overflow() -> None:
    evidence = Evidence(np.array([[1e4, -1e4, 0.0, 0.0], [-1e4, -1e4, 1e4, 0.0]]), None)
    for method in ("softmax", "energy", "trained"):
        assert np.isfinite(compute_scores(method, evidence, COLUMNS, {})).all()
    assert [to_probability(margin) for margin in (-1e6, 0.0, 1e6)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("chosen", "labels", "methods"),
    [
        ("none", ["intent:a", "intent:oos"], []),
        ("energy", ["intent:a", "intent:b"], ["energy"]),
        ("auto", ["intent:a", "intent:b"], ["softmax", "energy", "mahalanobis"]),
        ("auto", ["intent:a", "intent:oos"], METHOD_SET),
    ],
)
def test_auto_compares_the_available_methods(chosen: str, labels: list[str], methods: list[Any]) -> None:
    assert calibration.list_methods(chosen, LabelColumns(labels, "oos")) == methods
