"""Numbers, scores, axes and thinned curves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.tasks import MetricSpec
from fastserve_observers import formatting
from fastserve_observers.axes import Axes, compute_range, compute_ticks
from fastserve_observers.history import MAX_POINTS, DownsampledCurve
from fastserve_observers.quality import (
    ScoreName,
    compute_sampling_error,
    describe_difference,
    find_main_score,
    is_fraction,
    is_lower_better,
)
from fastserve_observers.run_summary import RunSummary, make_headline

from .conftest import measures, stage


@pytest.mark.parametrize(("seconds", "text"), [
    (0.04, "0.0 s"), (9.96, "10 s"), (61, "61 s"), (252, "4 min 12 s"), (3000, "50 min"), (7500, "2 h 05 min"),
    (math.inf, "unknown"),
])  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert formatting.format_duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [
    (999, "999 B"), (23_300_000, "23.3 MB"), (4_210, "4.21 kB"), (1.2e9, "1.20 GB"), (438e6, "438 MB"),
])  # fmt: skip
def test_sizes(value: float, text: str) -> None:
    assert formatting.format_bytes(value) == text


def test_counts_and_rates() -> None:
    assert [formatting.format_count(value) for value in (67_349, 22_713_216, 1.5e9)] == ["67,349", "22.7 M", "1.50 G"]
    assert [formatting.format_rate(value) for value in (812.3, 24_100.0, 2.5e6)] == ["812", "24.1 k", "2.50 M"]
    assert [formatting.format_ratio(value) for value in (0.85, 1.0, 3.94, 12.2)] == ["0.85", "1.0", "3.9", "12"]
    assert [formatting.format_value(value) for value in (3e-5, 0.123456, 31234.5, 7, None)] == [
        "3e-05",
        "0.1235",
        "31234",
        "7",
        "None",
    ]


def test_the_score_that_stands_for_all() -> None:
    assert find_main_score({"accuracy": 0.9, "macro_f1": 0.8}) == "accuracy"
    assert find_main_score({"accuracy": 0.9, "f1": 0.8}) == "f1"
    assert find_main_score({"loss": 3.0, "perplexity": 20.1}) == "perplexity"
    assert find_main_score({"accuracy": float("nan"), "rouge": 0.3}) == "rouge"
    assert find_main_score({}) == ""


def test_differences_in_words() -> None:
    assert describe_difference("accuracy", 0.881, 0.879) == "0.2 points less accurate"
    assert describe_difference("accuracy", 0.5, 0.9) == "40.0 points more accurate"
    assert describe_difference("accuracy", 0.881, 0.8811) == "equally accurate"
    assert describe_difference("macro_f1", 0.8, 0.81) == "1.0 points higher in macro f1"
    assert describe_difference("loss", 3.2, 3.1) == "with a loss of 3.1 instead of 3.2 (better)"
    assert describe_difference("loss", 3.2, 3.2) == "with the same loss (3.2)"


def test_the_sampling_error_of_a_share_of_rows() -> None:
    accuracy = ScoreName("accuracy", MetricSpec(unit="%", is_share_of_rows=True))
    assert compute_sampling_error(accuracy, 0.9, 900) == pytest.approx(0.01)
    assert compute_sampling_error(ScoreName("accuracy", MetricSpec(unit="%")), 0.9, 900) is None
    assert compute_sampling_error("accuracy", 0.9, 900) is None
    assert compute_sampling_error(accuracy, 0.9, 0) is None


def test_a_declared_direction_precedes_that_of_the_name() -> None:
    declared = {"regret": MetricSpec(higher_is_better=False), "accuracy": MetricSpec(unit="%")}
    assert find_main_score({"accuracy": 0.9, "regret": 2.0}, declared) == "regret"
    name = find_main_score({"regret": 2.0}, declared)
    assert is_lower_better(name) and not is_fraction(name)
    assert is_fraction("f1_micro") and not is_lower_better("f1_micro")


@pytest.mark.parametrize(("latency", "megabytes", "gains"), [
    (10.0, 40.0, "as large and as fast as the trained model"),
    (10.1, 10.0, "4.0 times smaller than the trained model and as fast"),
    (20.0, 40.0, "2.0 times slower than the trained model and as large"),
    (10.5, 80.0, "2.0 times larger and 5 % slower than the trained model"),
])  # fmt: skip
def test_gains_in_words(latency: float, megabytes: float, gains: str) -> None:
    score = {"accuracy": 0.9}
    lines = [
        stage("train", "torch_ddp", "done", 1.0, measures=measures(score, score, 10.0, 11.0, 9.0, 40.0, 1.0)),
        stage("compress", "slim", "done", 1.0, measures=measures(score, score, latency, 11.0, 9.0, megabytes, 1.0)),
    ]
    said = make_headline(RunSummary({"stages": lines, "best": lines[1]["artifact"]}))
    assert said == f"The model made by slim is {gains}, equally accurate on the test split."


def test_a_path_with_a_blank_is_quoted() -> None:
    assert RunSummary({"best": "/my store/a"}).list_commands()[0] == "fastserve serve '/my store/a'"


numbers = st.floats(-1e12, 1e12)


@given(st.lists(numbers, min_size=1), st.booleans(), st.booleans())
def test_an_axis_holds_every_value_and_a_few_round_numbers(
    values: list[float], zero: bool, is_y_inverted: bool
) -> None:
    bounds = compute_range(values, zero=zero)
    axes = Axes((0, 1), bounds, "x", "y", str, str, is_y_inverted)
    assert all(bounds[0] <= value <= bounds[1] for value in values)
    assert all(0 <= axes.map_y(value) <= 300 for value in values)
    assert len(compute_ticks(*bounds)) <= 8


@given(st.integers(1, 5000))
def test_a_thinned_curve_keeps_its_course(count: int) -> None:
    curve = DownsampledCurve()
    for step in range(count):
        curve.add(step, 2.0 * step)
    assert 1 <= len(curve.points) <= 2 * MAX_POINTS + 1
    assert all(y == pytest.approx(2 * x) for x, y in curve.points)
    assert curve.points == sorted(curve.points)


def test_a_resumed_training_replaces_repeated_steps() -> None:
    curve = DownsampledCurve()
    for step, loss in [(1, 9.0), (2, 8.0), (3, 7.0), (2, 5.0), (3, 4.0)]:
        curve.add(step, loss)
    assert curve.points == [(1, 9.0), (2, 5.0), (3, 4.0)]
