"""Several objectives at once, and constraints on the figures of a trial."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any, TypeVar

from fastserve_core.errors import ErrorCollector, OptionError, did_you_mean

MAXIMIZED = ("quality", "throughput_per_s", "smaller")
MINIMIZED = ("quality_drop", "latency_ms_p50", "size_bytes", "seconds")
RECIPE_FIGURES = (*MAXIMIZED, *MINIMIZED)
TRAINING_FIGURES = ("quality", "seconds")
"""The figures of a trial whose model is not measured."""
LOG_SCALED = ("throughput_per_s", "smaller", "latency_ms_p50", "size_bytes", "seconds")
LOG_FLOOR = 1e-3
"""The minimum of log-scaled figures: a reused trial takes 0 seconds, which has no logarithm."""
REJECTION_PENALTY = 1.0
"""The violation of a model that the gate rejects."""
CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+.\deE]+)\s*")
TrialLine = Mapping[str, Any]
"""A finished trial, as in the log."""
LineT = TypeVar("LineT", bound=Mapping[str, Any])


def read_value(line: TrialLine, name: str) -> float:
    """Return a figure of a finished trial."""
    measures = line.get("measures") or {}
    if name == "quality":
        name = "objective"
    return float(measures[name] if name in measures else line[name])


@dataclass(frozen=True)
class Constraint:
    """A bound of a figure, such as ``latency_ms_p50 <= 3``.

    Attributes:
        name: The figure.
        is_upper_bound: Whether the figure must be at most, rather than at least, the value.
        value: The bound.
    """

    name: str
    is_upper_bound: bool
    value: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Parse a constraint.

        Raises:
            OptionError: The text is not a figure, ``<=`` or ``>=``, and a number.
        """
        match = CONSTRAINT.fullmatch(str(text))
        try:
            name, sign, value = match.groups()  # type: ignore[union-attr]
            return cls(name, sign == "<=", float(value))
        except (AttributeError, ValueError) as error:
            raise OptionError(
                f"tune.nevergrad.constraints: '{text}' is not a valid constraint, such as 'latency_ms_p50 <= 3'"
            ) from error

    def violation(self, line: TrialLine) -> float:
        """Return by how much a trial violates the bound, relative to the bound; 0 if it satisfies it."""
        difference = read_value(line, self.name) - self.value
        return max(0.0, difference if self.is_upper_bound else -difference) / (abs(self.value) or 1.0)

    def __str__(self) -> str:
        return f"{self.name} {'<=' if self.is_upper_bound else '>='} {self.value:g}"


@dataclass(frozen=True)
class Objectives:
    """The objectives of a search and its constraints.

    Attributes:
        objectives: The names of the figures to optimize; empty for the score alone.
        constraints: The bounds that the best trial must satisfy.
    """

    objectives: Sequence[str] = ()
    constraints: Sequence[Constraint] = field(default_factory=tuple)

    @classmethod
    def parse(
        cls, objectives: Sequence[str] | None, constraints: Sequence[str] | None, has_recipes: bool
    ) -> Objectives:
        """Parse the options of the same names.

        Args:
            objectives: The names of figures.
            constraints: The texts of constraints.
            has_recipes: Whether trials are recipes, whose models are measured, rather than trainings.

        Raises:
            OptionError: A text is malformed, or the trials have no such figure; all errors are collected.
        """
        known, faults, parsed = RECIPE_FIGURES if has_recipes else TRAINING_FIGURES, ErrorCollector(), []
        for name in objectives or ():
            with faults.collect():
                _check_name(name, known, "objectives", has_recipes)
        for text in constraints or ():
            with faults.collect():
                constraint = Constraint.parse(text)
                _check_name(constraint.name, known, "constraints", has_recipes)
                parsed.append(constraint)
        faults.raise_if_any()
        return cls(tuple(objectives or ()), tuple(parsed))

    @property
    def count(self) -> int:
        """The number of losses of a trial."""
        return max(1, len(self.objectives))

    def losses(self, line: TrialLine) -> list[float]:
        """Return the losses of a successful trial, lower is better.

        Without objectives there is one, the negative score; amounts are log-scaled, so that all have equal weight.
        """
        if not self.objectives:
            return [-line["objective"]]
        values = [(name, read_value(line, name)) for name in self.objectives]
        return [
            (-1 if name in MAXIMIZED else 1) * (log2(max(value, LOG_FLOOR)) if name in LOG_SCALED else value)
            for name, value in values
        ]

    def total_violation(self, line: TrialLine) -> float:
        """Return the sum of the violations, 0 if the trial satisfies all constraints.

        With objectives, a rejection by the gate counts as a violation; the score alone includes it already.
        """
        is_rejected = bool(self.objectives) and not (line.get("measures") or {}).get("accepted", True)
        violations = sum(constraint.violation(line) for constraint in self.constraints)
        return violations + (REJECTION_PENALTY if is_rejected else 0.0)

    def pareto_front(self, lines: Sequence[LineT]) -> list[LineT]:
        """Return the trials that no other trial dominates; all trials if there are no objectives."""
        losses = [self.losses(line) for line in lines] if self.objectives else [[0.0]] * len(lines)
        return [
            line for line, own in zip(lines, losses, strict=True) if not any(_dominates(other, own) for other in losses)
        ]


def _dominates(losses: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the losses are nowhere higher than the others, and different."""
    return losses != other and all(a <= b for a, b in zip(losses, other, strict=True))


def _check_name(name: str, known: Sequence[str], option: str, has_recipes: bool) -> None:
    if name not in known:
        kind = "recipe" if has_recipes else "training"
        raise OptionError(f"tune.nevergrad.{option}: a {kind} has no figure '{name}'{did_you_mean(name, known)}")
