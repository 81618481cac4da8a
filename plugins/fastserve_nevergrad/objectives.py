"""What is wanted besides the best score: several objectives at once, and limits that must be kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any, TypeVar

from fastserve_core.errors import ErrorCollector, InvalidOption, did_you_mean

HIGHER = ("quality", "throughput_per_s", "smaller")
LOWER = ("quality_drop", "latency_ms_p50", "size_bytes", "seconds")
NAMES = (*HIGHER, *LOWER)
AMOUNTS = ("throughput_per_s", "smaller", "latency_ms_p50", "size_bytes", "seconds")
LOG_FLOOR = 1e-3
"""Amounts below it count as it: a trial that was at its end takes no seconds, and nothing has no logarithm."""
REJECTION_PENALTY = 1.0
"""What the gate's refusal counts as beside what limits are missed by."""
OF_TRAININGS = ("quality", "seconds")
"""What there is of a trial that makes no model to be measured."""
LIMIT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+.\deE]+)\s*")
Line = Mapping[str, Any]
Found = TypeVar("Found", bound=Mapping[str, Any])


def value_of(line: Line, name: str) -> float:
    """A figure of a finished trial."""
    measures = line.get("measures") or {}
    if name == "quality":
        name = "objective"
    return float(measures[name] if name in measures else line[name])


@dataclass(frozen=True)
class Constraint:
    """``latency_ms_p50 <= 3``; raises ``InvalidOption`` for what is not written so."""

    name: str
    is_upper_bound: bool
    value: float

    @classmethod
    def read(cls, text: str) -> Constraint:
        found = LIMIT.fullmatch(str(text))
        try:
            name, sign, value = found.groups()  # type: ignore[union-attr]
            return cls(name, sign == "<=", float(value))
        except (AttributeError, ValueError) as error:
            raise InvalidOption(f"tune.nevergrad.constraints: '{text}' is not like 'latency_ms_p50 <= 3'") from error

    def violation(self, line: Line) -> float:
        """By how many times the limit a trial misses it; 0 where it is kept."""
        over = value_of(line, self.name) - self.value
        return max(0.0, over if self.is_upper_bound else -over) / (abs(self.value) or 1.0)

    def __str__(self) -> str:
        return f"{self.name} {'<=' if self.is_upper_bound else '>='} {self.value:g}"


@dataclass(frozen=True)
class Objectives:
    """``objectives`` by name, none for the score alone, and the limits."""

    objectives: Sequence[str] = ()
    limits: Sequence[Constraint] = field(default_factory=tuple)

    @classmethod
    def read(cls, objectives: Sequence[str] | None, constraints: Sequence[str] | None, recipes: bool) -> Objectives:
        """Raises ``InvalidOption`` for names that such trials have no figure of; all at once."""
        known, faults, limits = NAMES if recipes else OF_TRAININGS, ErrorCollector(), []
        for name in objectives or ():
            with faults.collect():
                _check(name, known, "objectives", recipes)
        for text in constraints or ():
            with faults.collect():
                limit = Constraint.read(text)
                _check(limit.name, known, "constraints", recipes)
                limits.append(limit)
        faults.raise_if_any()
        return cls(tuple(objectives or ()), tuple(limits))

    def losses(self, line: Line) -> list[float]:
        """Lower is better; the score alone, or each objective: of amounts the logarithm, so that all weigh alike."""
        if not self.objectives:
            return [-line["objective"]]
        found = [(name, value_of(line, name)) for name in self.objectives]
        return [
            (-1 if name in HIGHER else 1) * (log2(max(one, LOG_FLOOR)) if name in AMOUNTS else one)
            for name, one in found
        ]

    def excess(self, line: Line) -> float:
        """By how much the limits are missed, together; 0 where all are kept.

        Where there are objectives, what the gate refuses counts as missed too: the score has that in it already.
        """
        refused = bool(self.objectives) and not (line.get("measures") or {}).get("accepted", True)
        return sum(limit.violation(line) for limit in self.limits) + (REJECTION_PENALTY if refused else 0.0)

    def front(self, lines: Sequence[Found]) -> list[Found]:
        """Those that none of the others beats in one objective and equals in the rest; all without objectives."""
        losses = [self.losses(line) for line in lines] if self.objectives else [[0.0]] * len(lines)
        return [one for one, own in zip(lines, losses, strict=True) if not any(_beats(other, own) for other in losses)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _check(name: str, known: Sequence[str], option: str, recipes: bool) -> None:
    if name not in known:
        of = "recipe" if recipes else "training"
        raise InvalidOption(f"tune.nevergrad.{option}: a {of} has no figure '{name}'{did_you_mean(name, known)}")
