"""What the tuners are compared on: an objective, the steps that each may use, and how often it is repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import Store
from fastserve_core.plugins import TrialRequest, TrialResult

Attempting = Callable[[TrialRequest], TrialResult]
"""One trial, as far as its budget's ``pause``; the same number goes on from where it was."""


@dataclass(frozen=True)
class Objective:
    """``loss`` is lower when better and is minus what an attempt gives.

    ``space`` is as ``tune.nevergrad.space`` has it. ``steps`` are those of a whole trial; a peer may end one after
    ``least``, and after as many again. By a search's seed ``first`` gives the options as they are, and ``begin`` its
    attempts.
    """

    name: str
    space: Mapping[str, Any]
    first: Callable[[int], Mapping[str, Any]]
    steps: int
    least: int
    begin: Callable[[int], Attempting]


@dataclass(frozen=True)
class Found:
    """What a search came to: the loss of its best trial that ran whole, and the steps that it used."""

    loss: float
    used: int
    trials: int


Search = Callable[[Objective, int, int], Found]
"""A search by objective, steps and seed."""


@dataclass(frozen=True)
class Bench:
    """``budget`` counts whole trials: what each search may use of steps is that many times the steps of one."""

    store: Store
    scratch: Path
    repeats: int
    budget: int = 8
    curves: Path | None = None
