"""The choice between variants: the fastest one that is good enough."""

from __future__ import annotations

import pytest

from fastserve_core.pipeline.variants import find_best


@pytest.mark.parametrize(
    ("speeds", "qualities", "best"),
    [
        ([1.0, 1.8], [0.88, 0.88], 1),
        ([1.0, 0.7], [0.88, 0.89], 0),
        ([1.0, 1.8], [0.88, 0.85], 0),
        ([1.0, 1.8], [0.88, float("nan")], 0),
        ([0.5, 1.8, 1.2], [0.80, 0.81, 0.82], 1),
    ],
)
def test_the_fastest_of_sufficient_quality_is_the_best(speeds: list[float], qualities: list[float], best: int) -> None:
    assert find_best(speeds, qualities, minimum=0.87) == best
