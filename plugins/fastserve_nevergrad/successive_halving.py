"""Successive halving: trials begin short, and the better ones of each length go on to the next.

A trial goes on as soon as the share of its rung allows one more, so that the search can end at any time, as in ASHA
(Li et al. 2020, https://arxiv.org/abs/1810.05934), but never more than that share: an optimizer's trials become better,
and each would go on for being the best so far. The first trial, what would be done anyway, goes the whole way: nothing
is taken that was not compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIRST = 0


def lengths(steps: int, reduction_factor: int | None, least: int) -> list[int]:
    """The steps of a trial at each rung, ``least`` or more, the last with all; one rung without
    ``reduction_factor``."""
    found = [steps]
    while reduction_factor is not None and found[0] // reduction_factor >= least:
        found.insert(0, found[0] // reduction_factor)
    return found


class Rungs:
    """What each trial came to at each length; higher is better, ``None`` is a failure."""

    def __init__(self, steps: int, reduction_factor: int | None, least: int) -> None:
        self.lengths = lengths(steps, reduction_factor, least)
        self._share = reduction_factor or 1
        self._results: list[dict[int, float | None]] = [{} for _ in self.lengths]
        self._begun: set[tuple[int, int]] = set()

    def begin(self, number: int, rung: int) -> None:
        """A trial is on its way to a rung."""
        self._begun.add((number, rung))

    def add(self, number: int, rung: int, objective: float | None) -> None:
        self._results[rung][number] = objective
        self._begun.discard((number, rung))

    def promoted(self) -> tuple[int, int] | None:
        """The trial that goes on next and the rung that it goes to; ``None`` where none has earned it."""
        for rung in reversed(range(len(self.lengths) - 1)):
            waits = self._waits(rung)
            if FIRST in waits:
                return FIRST, rung + 1
            if waits and self._above(rung) < len(self._results[rung]) // self._share:
                return waits[0], rung + 1
        return None

    def last(self) -> tuple[int, int] | None:
        """When no trial begins any more: the best that waits below the top goes on, if nothing came as far as that
        but the first."""
        if self._begun or set(self._results[-1]) - {FIRST}:
            return None
        for rung in reversed(range(len(self.lengths) - 1)):
            if waits := self._waits(rung):
                return waits[0], rung + 1
        return None

    def cost(self, rung: int) -> int:
        """The steps that a trial takes to come to a rung from the one below."""
        return self.lengths[rung] - (self.lengths[rung - 1] if rung else 0)

    def trials(self, steps: int) -> int:
        """How many trials so many steps are enough for, when each length lets its share go on."""
        number = 1
        while self._steps(number + 1) <= steps:
            number += 1
        return number

    def _steps(self, trials: int) -> int:
        """What so many trials take: the first the whole way, of the others a share at each length."""
        took, share = self.lengths[-1], 1
        for rung in range(len(self.lengths)):
            took += (trials - 1) // share * self.cost(rung)
            share *= self._share
        return took

    def steps_used(self, done: Sequence[Mapping[str, Any]]) -> int:
        """The steps that trials took, and those under way will take."""
        ended: dict[int, int] = {line["number"]: line["steps"] for line in done if "steps" in line}
        return sum(ended.values()) + sum(self.cost(rung) for _, rung in self._begun)

    def finalists(self) -> list[int]:
        """Those that came furthest, the best first; none where every trial failed."""
        return next((ranked for rung in reversed(range(len(self.lengths))) if (ranked := self._ranked(rung))), [])

    def pruned(self, trials: int) -> list[int]:
        """Those that cannot be gone on with any more, for of so many trials in all too many were better already."""
        found = []
        for rung in range(len(self.lengths) - 1):
            left = max(1, trials // self._share ** (rung + 1) - self._above(rung))
            found += [number for number in self._waits(rung)[left:] if number != FIRST]
        return found

    def _above(self, rung: int) -> int:
        """How many went on from a rung, besides the first."""
        return len(self._went_on(rung) - {FIRST})

    def _went_on(self, rung: int) -> set[int]:
        return set(self._results[rung + 1]) | {number for number, begun in self._begun if begun == rung + 1}

    def _ranked(self, rung: int) -> list[int]:
        """Those that have a result, the best first, the earlier of equal ones before the later."""
        done = {number: one for number, one in self._results[rung].items() if one is not None}
        return sorted(done, key=lambda number: (-done[number], number))

    def _waits(self, rung: int) -> list[int]:
        """Those that came to the rung and were not tried on the next, the best first."""
        gone = self._went_on(rung)
        return [number for number in self._ranked(rung) if number not in gone]
