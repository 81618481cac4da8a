"""The choice of the best trial: by constraints, Pareto front and, within the noise of the scores, mean rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from fastserve_core.errors import StageError
from fastserve_nevergrad.objectives import Objectives, read_value


def select_trial(trials: Sequence[Mapping[str, Any]], finalists: Sequence[int], objectives: Objectives) -> int:
    """Choose the best of the trials that reached the highest rung.

    Args:
        trials: The results of all trials, as in the log.
        finalists: The numbers of the trials that reached the highest rung.
        objectives: The objectives and constraints.

    Returns:
        The number of the best trial, which satisfies the constraints and is on the Pareto front.

    Raises:
        StageError: Every trial failed, or no finalist satisfies the constraints.
    """
    last = {line["number"]: line for line in trials if line["objective"] is not None}
    lines = [last[number] for number in finalists]
    if not lines:
        raise StageError(_failure_message(trials))
    feasible = [line for line in lines if not objectives.total_violation(line)]
    if not feasible and objectives.constraints:
        raise StageError(_violation_message(lines, objectives))
    candidates = objectives.pareto_front(feasible) or lines
    return select_best({line["number"]: line.get("each") or [line["objective"]] for line in candidates})


def _failure_message(trials: Sequence[Mapping[str, Any]]) -> str:
    causes = Counter(line["error"] for line in trials)
    (cause, count), others = causes.most_common(1)[0], len(causes) - 1
    detail = f" ({count} of {len(trials)} trials; {others} other causes)" if others else ""
    return f"every trial failed: {cause}{detail}"


def _violation_message(lines: Sequence[Mapping[str, Any]], objectives: Objectives) -> str:
    nearest = min(lines, key=objectives.total_violation)
    violated = [constraint for constraint in objectives.constraints if constraint.violation(nearest)]
    figures = ", ".join(f"{constraint.name} {read_value(nearest, constraint.name):.4g}" for constraint in violated)
    constraints = " and ".join(map(str, objectives.constraints))
    return f"no trial satisfies {constraints}: the nearest is trial {nearest['number'] + 1}, with {figures}"


def select_best(scores: Mapping[int, Sequence[float]]) -> int:
    """Choose the best trial by scores over folds and seeds.

    Trials are within the noise of the best mean if the mean of the differences is at most their standard error. Of
    these, the trial with the lowest mean rank over the folds and seeds is chosen, because one lucky fold changes a
    mean but not a rank; ties go to the better mean, then to the earlier trial.

    Args:
        scores: The scores of each trial by its number, for the same folds and seeds in the same order.

    Returns:
        The number of the trial.
    """
    means = {number: fmean(values) for number, values in scores.items()}
    best = min(means, key=lambda number: (-means[number], number))
    similar = {number: values for number, values in scores.items() if _is_within_noise(scores[best], values)}
    ranks = {number: fmean(_ranks(similar, number)) for number in similar}
    return min(similar, key=lambda number: (ranks[number], -means[number], number))


def _is_within_noise(best: Sequence[float], other: Sequence[float]) -> bool:
    differences = [best_score - score for best_score, score in zip(best, other, strict=True)]
    if len(differences) < 2:
        return not any(differences)
    return fmean(differences) <= stdev(differences) / sqrt(len(differences))


def _ranks(scores: Mapping[int, Sequence[float]], number: int) -> list[float]:
    """Return the rank of one trial at each fold and seed; ties share the mean of their ranks."""
    ranks = []
    for index, own in enumerate(scores[number]):
        column = [values[index] for values in scores.values()]
        better, equal = sum(score > own for score in column), sum(score == own for score in column)
        ranks.append(better + (equal + 1) / 2)
    return ranks
