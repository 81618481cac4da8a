"""The pictures of a search: what they show, what they leave out, and whether an option's importance is its own."""

from __future__ import annotations

import random
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.events import TrialFinished
from fastserve_observers.search_plots import compute_importance, draw_parallel_coordinates, draw_trial_curves

LR, BATCH, METHOD = "train.toy.lr", "train.toy.batch_size", "train.toy.method"


def trial(number: int, score: float | None, **options: Any) -> TrialFinished:
    return TrialFinished(number, 99, {f"train.toy.{name}": value for name, value in options.items()}, score, 1.0)


def drawn(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def lines(picture: str) -> list[tuple[str, list[tuple[float, float]]]]:
    return [
        (line.attrib["class"], [tuple(map(float, one.split(","))) for one in line.attrib["points"].split()])  # type: ignore[misc]
        for line in drawn(picture).iter("polyline")
    ]


def test_each_trial_is_a_line_through_its_options_and_the_best_is_on_top() -> None:
    picture = draw_parallel_coordinates(
        [
            trial(0, 0.6, lr=1e-5, batch_size=16, epochs=3),
            trial(1, 0.9, lr=1e-3, batch_size=32, epochs=3),
            trial(2, 0.7, lr=1e-4, batch_size=16, epochs=3),
            trial(3, None, lr=1e-2, batch_size=16, epochs=3),
        ]
    )
    found = lines(picture)
    assert len(found) == 3, "a failed trial has no score to lead to"
    assert [kind for kind, _ in found] == ["line s0 faint0", "line s0 faint1", "line s1"]
    heights = [[y for _, y in points] for _, points in found]
    assert heights[0][0] > heights[1][0] > heights[2][0], "the learning rate, by its logarithm"
    assert heights[1][0] == pytest.approx((heights[0][0] + heights[2][0]) / 2)
    assert heights[0][1] == heights[1][1] != heights[2][1], "the batch size"
    words = [one.text for one in drawn(picture).iter("text")]
    assert "epochs" not in words, "what was not varied is left out"
    assert {"lr", "batch_size", "score", "1e-05", "0.001", "16", "32"} <= set(words)


def test_words_and_options_that_a_trial_lacks() -> None:
    picture = draw_parallel_coordinates(
        [
            trial(0, 0.6, method="full", lr=1e-5),
            trial(1, 0.7, method="lora", lr=1e-4, rank=4),
            trial(2, 0.8, method="lora", lr=1e-4, rank=8),
        ]
    )
    assert [len(points) for _, points in lines(picture)] == [3, 4, 4]
    assert {"full", "lora", "rank"} <= {one.text for one in drawn(picture).iter("text")}


def test_too_few_trials_or_a_single_option_are_not_drawn() -> None:
    assert (
        draw_parallel_coordinates([trial(0, 0.6, lr=1e-5, batch_size=16), trial(1, 0.7, lr=1e-4, batch_size=32)]) == ""
    )
    assert draw_parallel_coordinates([trial(number, 0.1 * number, lr=10.0**-number) for number in range(5)]) == ""
    assert draw_trial_curves({0: [[60, 0.5]], 1: [[60, 0.6]]}) == ""
    assert compute_importance([trial(number, 0.1 * number, lr=10.0**-number) for number in range(5)]) == []


def test_curves_of_trials_that_went_on() -> None:
    picture = draw_trial_curves({0: [[15, 0.5], [45, 0.6]], 1: [[15, 0.4]], 2: [[15, 0.55], [45, 0.7], [135, 0.8]]})
    assert [(kind, len(points)) for kind, points in lines(picture)] == [
        ("line s0 faint1", 2), ("line s0 faint1", 1), ("line s1", 3),
    ]  # fmt: skip


def test_the_option_that_decides_is_distinguished_from_the_others() -> None:
    draw = random.Random(0)
    trials = []
    for number in range(60):
        lr, batch, method = 10 ** draw.uniform(-5, -1), draw.choice([16, 32]), draw.choice(["full", "lora", None])
        score = -abs(lr - 1e-3) + (0.0005 if method == "lora" else 0.0)
        trials.append(trial(number, score, lr=lr, batch_size=batch, method=method))
    found = compute_importance(trials)
    assert found[0][0] == LR
    shares = dict(found)
    assert shares[LR] > 0.5, "the best is in the middle: not a matter of a straight line"
    assert shares[BATCH] < 0.1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 5), st.sampled_from(["a", "b"])), min_size=8, max_size=30))
def test_shares_are_shares(rows: list[tuple[float, float, str]]) -> None:
    found = compute_importance(
        [trial(number, score, lr=lr, method=one) for number, (score, lr, one) in enumerate(rows)]
    )
    assert all(0 <= share <= 1 for _, share in found)
