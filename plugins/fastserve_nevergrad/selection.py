"""Which trial is taken: the best, or, of those that are as good as it within the noise, the one that ranks best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev


def select_best(scores: Mapping[int, Sequence[float]]) -> int:
    """The number of the trial to take; each has as many scores, the same folds and seeds in the same order.

    Trials are within the noise of the best mean when the mean of the differences is at most their standard error. Of
    these the one with the lowest mean rank over the folds and seeds is taken, for one lucky fold moves a mean and not
    a rank; of equal ranks the better mean, of equal means the earlier trial.
    """
    means = {number: fmean(one) for number, one in scores.items()}
    best = min(means, key=lambda number: (-means[number], number))
    alike = {number: one for number, one in scores.items() if _within_noise(scores[best], one)}
    ranks = {number: fmean(_ranks(alike, number)) for number in alike}
    return min(alike, key=lambda number: (ranks[number], -means[number], number))


def _within_noise(best: Sequence[float], other: Sequence[float]) -> bool:
    apart = [one - another for one, another in zip(best, other, strict=True)]
    if len(apart) < 2:
        return not any(apart)
    return fmean(apart) <= stdev(apart) / sqrt(len(apart))


def _ranks(scores: Mapping[int, Sequence[float]], number: int) -> list[float]:
    """The rank of one trial at each fold and seed; equal ones share the mean of their ranks."""
    found = []
    for place, own in enumerate(scores[number]):
        others = [one[place] for one in scores.values()]
        found.append(sum(one > own for one in others) + (sum(one == own for one in others) + 1) / 2)
    return found
