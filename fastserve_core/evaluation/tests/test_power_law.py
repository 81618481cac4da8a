"""The power law of a learning curve: exact data, noise, and its interval."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.evaluation.power_law import fit_power_law

ROWS = [50, 100, 200, 400]


@given(st.floats(0.05, 5), st.floats(-0.5, 1))
def test_exact_errors_give_their_law_without_an_interval(scale: float, exponent: float) -> None:
    law = fit_power_law(ROWS, [scale * rows**-exponent for rows in ROWS])
    assert law is not None
    assert (law.scale, law.exponent) == (pytest.approx(scale, rel=1e-6), pytest.approx(exponent, abs=1e-9))
    assert law.predict(800) == pytest.approx([scale * 800**-exponent] * 3, rel=1e-6)


def test_scatter_widens_the_interval_and_so_does_distance() -> None:
    law = fit_power_law(ROWS, [0.5 * 1.1, 0.4 / 1.1, 0.3 * 1.1, 0.22])
    assert law is not None

    def width(rows: int) -> float:
        _, low, high = law.predict(rows)
        return math.log(high / low)

    assert 0 < width(200) < width(800) < width(3200)


def test_the_interval_is_that_of_a_textbook() -> None:
    numpy, stats = pytest.importorskip("numpy"), pytest.importorskip("scipy.stats")
    errors = [0.5, 0.42, 0.3, 0.25]
    xs, ys = numpy.log(ROWS), numpy.log(errors)
    line = stats.linregress(xs, ys)
    residual = numpy.sqrt(((ys - line.intercept - line.slope * xs) ** 2).sum() / 2)
    x = math.log(800)
    spread = ((xs - xs.mean()) ** 2).sum()
    margin = stats.t.ppf(0.9, 2) * residual * math.sqrt(1 + 1 / 4 + (x - xs.mean()) ** 2 / spread)
    expected = line.intercept + line.slope * x
    law = fit_power_law(ROWS, errors)
    assert law is not None
    assert law.predict(800) == pytest.approx(numpy.exp([expected, expected - margin, expected + margin]), rel=1e-3)


def test_fewer_than_three_sizes_give_none() -> None:
    assert fit_power_law([10, 20], [0.5, 0.4]) is None
    assert fit_power_law([10, 20, 20], [0.5, 0.4, 0.3]) is None
