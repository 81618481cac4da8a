"""Asynchronous successive halving: trials begin short, and the better ones of each length are promoted.

A trial is promoted as soon as the share of its rung allows one more, so that the search can end at any time, as in
ASHA (Li et al. 2020, https://arxiv.org/abs/1810.05934), but never more trials than that share: an optimizer's trials
improve, and each would be promoted because it is the best so far. The first trial, which has the run's own options, is
always promoted, so that every result was compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIRST_TRIAL = 0


def rung_lengths(steps: int, reduction_factor: int | None, min_resource: int) -> list[int]:
    """Return the number of steps of a trial at each rung, ascending.

    Args:
        steps: The steps of a full trial.
        reduction_factor: The ratio of consecutive lengths, or ``None`` for one rung.
        min_resource: The minimum number of steps.
    """
    lengths = [steps]
    while reduction_factor is not None and lengths[0] // reduction_factor >= min_resource:
        lengths.insert(0, lengths[0] // reduction_factor)
    return lengths


class Rungs:
    """The results of the trials at each length, and the trials to promote.

    Args:
        steps: The steps of a full trial.
        reduction_factor: One of this many trials of a rung is promoted; ``None`` for one rung.
        min_resource: The minimum number of steps.

    Attributes:
        lengths: The number of steps of each rung.
    """

    def __init__(self, steps: int, reduction_factor: int | None, min_resource: int) -> None:
        self.lengths = rung_lengths(steps, reduction_factor, min_resource)
        self._factor = reduction_factor or 1
        self._results: list[dict[int, float | None]] = [{} for _ in self.lengths]
        self._running: set[tuple[int, int]] = set()

    def begin(self, number: int, rung: int) -> None:
        """Record that a trial has started towards a rung."""
        self._running.add((number, rung))

    def add(self, number: int, rung: int, objective: float | None) -> None:
        """Record the result of a trial at a rung; higher is better, and ``None`` is a failure."""
        self._results[rung][number] = objective
        self._running.discard((number, rung))

    def next_promotion(self) -> tuple[int, int] | None:
        """Return the trial to promote next and its new rung, or ``None`` if no share allows one."""
        for rung in reversed(range(len(self.lengths) - 1)):
            waiting = self._waiting(rung)
            if FIRST_TRIAL in waiting:
                return FIRST_TRIAL, rung + 1
            if waiting and self._promoted_count(rung) < len(self._results[rung]) // self._factor:
                return waiting[0], rung + 1
        return None

    def last_promotion(self) -> tuple[int, int] | None:
        """Return the trial to promote at the end, if only the first one has reached the highest rung."""
        if self._running or set(self._results[-1]) - {FIRST_TRIAL}:
            return None
        for rung in reversed(range(len(self.lengths) - 1)):
            if waiting := self._waiting(rung):
                return waiting[0], rung + 1
        return None

    def cost(self, rung: int) -> int:
        """Return the number of steps from the rung below to this one."""
        return self.lengths[rung] - (self.lengths[rung - 1] if rung else 0)

    def affordable_trials(self, steps: int) -> int:
        """Return the number of trials that a number of steps suffices for, promotions included."""
        trials = 1
        while self._total_steps(trials + 1) <= steps:
            trials += 1
        return trials

    def _total_steps(self, trials: int) -> int:
        """Return the steps of a number of trials: the first in full, and of the others a share at each length."""
        total, divisor = self.lengths[-1], 1
        for rung in range(len(self.lengths)):
            total += (trials - 1) // divisor * self.cost(rung)
            divisor *= self._factor
        return total

    def steps_used(self, finished: Sequence[Mapping[str, Any]]) -> int:
        """Return the steps of the finished trials, as in the log, and of the running ones."""
        steps: dict[int, int] = {line["number"]: line["steps"] for line in finished if "steps" in line}
        return sum(steps.values()) + sum(self.cost(rung) for _, rung in self._running)

    def finalists(self) -> list[int]:
        """Return the trials that reached the highest rung, the best first; empty if every trial failed."""
        return next((ranked for rung in reversed(range(len(self.lengths))) if (ranked := self._ranked(rung))), [])

    def find_pruned(self, trials: int) -> list[int]:
        """Return the trials that cannot be promoted any more, because too many are better already.

        Args:
            trials: The number of trials at the end of the search.
        """
        pruned = []
        for rung in range(len(self.lengths) - 1):
            open_places = max(1, trials // self._factor ** (rung + 1) - self._promoted_count(rung))
            pruned += [number for number in self._waiting(rung)[open_places:] if number != FIRST_TRIAL]
        return pruned

    def _promoted_count(self, rung: int) -> int:
        return len(self._promoted(rung) - {FIRST_TRIAL})

    def _promoted(self, rung: int) -> set[int]:
        return set(self._results[rung + 1]) | {number for number, target in self._running if target == rung + 1}

    def _ranked(self, rung: int) -> list[int]:
        """Return the successful trials of a rung, the best first; of equal ones the earlier first."""
        objectives = {number: value for number, value in self._results[rung].items() if value is not None}
        return sorted(objectives, key=lambda number: (-objectives[number], number))

    def _waiting(self, rung: int) -> list[int]:
        """Return the successful trials of a rung that were not promoted, the best first."""
        promoted = self._promoted(rung)
        return [number for number in self._ranked(rung) if number not in promoted]
