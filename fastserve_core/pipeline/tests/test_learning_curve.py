"""The learning curve of a run: its sizes, its sentence, and subsets that contain each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import prepare_dataset
from fastserve_core.data.subsets import make_subset
from fastserve_core.errors import OptionError
from fastserve_core.pipeline.learning_curve import describe_curve, subset_sizes
from fastserve_core.pipeline.settings import LearningCurveOptions
from fastserve_core.tasks import load_task

FRACTIONS = (0.12, 0.25, 0.5)
TASK = load_task("text_classification", {}, ["a", "b"])


def points(*scores: float) -> list[dict[str, float]]:
    return [{"rows": 50 * 2**number, "score": score} for number, score in enumerate(scores)]


@pytest.mark.parametrize(("total", "sizes"), [(400, [48, 100, 200]), (40, [10, 20]), (20, [10]), (9, []), (0, [])])
def test_parts_with_too_few_rows_are_left_out(total: int, sizes: list[int]) -> None:
    assert subset_sizes(total, FRACTIONS) == sizes


def test_a_rising_curve_has_a_forecast_between_its_bounds_for_twice_the_rows() -> None:
    curve = describe_curve(points(0.5, 0.6, 0.69, 0.75), TASK, 200, 400)
    forecast = curve["forecast"]
    assert forecast["rows"] == 800
    assert 0.75 < forecast["low"] < forecast["score"] < forecast["high"] < 1
    assert curve["sentence"].startswith("With 800 training rows instead of 400, accuracy on the validation rows")
    assert f"from 75.0 % to {100 * forecast['score']:.1f} % (80 % interval: " in curve["sentence"]


def test_a_metric_of_which_lower_is_better_falls() -> None:
    task = load_task("text_classification", {"metric": "log_loss"}, ["a", "b"])
    forecast = describe_curve(points(0.8, 0.6, 0.46, 0.35), task, 200, 400)["forecast"]
    assert 0 < forecast["low"] < forecast["score"] < forecast["high"] < 0.35


def test_a_falling_curve_promises_nothing() -> None:
    curve = describe_curve(points(0.7, 0.69, 0.68), TASK, 200, 200)
    assert "From 50 to 200 training rows, accuracy did not improve on the validation rows" in curve["sentence"]


def test_no_error_on_few_rows_is_not_taken_for_none() -> None:
    forecast = describe_curve(points(0.9, 1.0, 1.0), TASK, 20, 200)["forecast"]
    assert 0.9 < forecast["score"] < 1


def test_too_few_points_are_reported_and_not_fitted() -> None:
    curve = describe_curve(points(0.5, 0.6), TASK, 5, 20)
    assert (curve["fit"], curve["forecast"]) == (None, None)
    assert "2 trainings of at least 8 rows are too few" in curve["sentence"] and "20 rows" in curve["sentence"]


def test_fractions_outside_of_0_to_1_are_refused() -> None:
    with pytest.raises(OptionError, match=r"learning_curve\.fractions must lie between 0 and 1, not 25"):
        LearningCurveOptions(fractions=[0.5, 25])


def test_subsets_are_stratified_and_contain_the_smaller_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"text number {number},{'common' if number % 4 else 'rare'}" for number in range(100)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    store = Store(tmp_path / "home")
    data = prepare_dataset(DataOptions(train=str(path)), TASK, store, lambda _: None)
    found = [make_subset(data, TASK, rows, 7, store) for rows in (8, 20, 40)]
    texts = [{row["text"] for row in subset.rows("train")} for subset in found]
    assert texts[0] < texts[1] < texts[2] and [len(one) for one in texts] == [8, 20, 40]
    assert Counter(row["label"] for row in found[1].rows("train")) == {"common": 15, "rare": 5}
    assert len({subset.fingerprint for subset in found}) == 3
    for subset in found:
        assert list(subset.rows("validation")) == list(data.rows("validation"))
        assert subset.labels == data.labels
