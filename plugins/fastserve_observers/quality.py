"""Meaning of scores for readers: the main score, its direction, its format and its sampling error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from fastserve_core.tasks import MetricSpec
from fastserve_observers.formatting import format_significant, format_value, to_finite_float

PREFERRED_METRICS = ("f1", "accuracy", "perplexity", "loss")
FRACTION_METRICS = frozenset({"accuracy", "exact", "f1", "precision", "recall"})
LOWER_IS_BETTER_SUFFIXES = ("loss", "perplexity", "error")


class ScoreName(str):
    """A score's name with its task's declaration of it."""

    spec: MetricSpec

    def __new__(cls, name: str, spec: MetricSpec) -> Self:
        """Return the name with its specification."""
        made = super().__new__(cls, name)
        made.spec = spec
        return made


def declared_metrics(record: Mapping[str, Any]) -> dict[str, MetricSpec]:
    """Return the metrics that a run's record declares, in the task's order; a record may declare none."""
    return {name: MetricSpec(**declared) for name, declared in (record.get("metrics") or {}).items()}


def spec_of(name: str) -> MetricSpec:
    """Return the specification of a score: its task's declaration, else the one that its name suggests."""
    if isinstance(name, ScoreName):
        return name.spec
    is_fraction = not name.endswith(LOWER_IS_BETTER_SUFFIXES) and not FRACTION_METRICS.isdisjoint(name.split("_"))
    return MetricSpec(not name.endswith(LOWER_IS_BETTER_SUFFIXES), "%" if is_fraction else "")


def find_main_score(scores: Mapping[str, Any], declared: Mapping[str, MetricSpec] | None = None) -> str:
    """Return the name of the score that stands for all of them; empty when there is none."""
    names = [name for name, value in scores.items() if to_finite_float(value) is not None]
    preferred = (*(declared or ()), *PREFERRED_METRICS)
    found = next((name for name in preferred if name in names), names[0] if names else "")
    return ScoreName(found, declared[found]) if declared and found in declared else found


def is_lower_better(name: str) -> bool:
    """Return whether lower values of the metric are better."""
    return not spec_of(name).higher_is_better


def is_fraction(name: str) -> bool:
    """Return whether a score lies between 0 and 1 and is shown in per cent."""
    return spec_of(name).unit == "%"


def format_metric_name(name: str) -> str:
    """Return the metric's name with spaces."""
    return name.replace("_", " ")


def format_score(name: str, value: Any) -> str:
    """Return a score as text, ``88.1 %`` or ``24.31``, or a dash if there is none."""
    known = to_finite_float(value)
    if known is None:
        return "-"
    return f"{100 * known:.1f} %" if is_fraction(name) else format_value(known)


def format_tick(name: str, value: float) -> str:
    """A score on an axis, with as many digits as distinguish neighbours."""
    return f"{100 * value:.5g} %" if is_fraction(name) else format_value(value, 5)


def compute_sampling_error(name: str, value: Any, rows: Any) -> float | None:
    """Return the standard error of a share of so many rows, sqrt(p (1 - p) / n); ``None`` for other scores."""
    share, known = to_finite_float(value), to_finite_float(rows)
    if not spec_of(name).is_share_of_rows or share is None or not known or not 0 <= share <= 1:
        return None
    return math.sqrt(share * (1 - share) / known)


def describe_difference(name: str, before: float, after: float) -> str:
    """Describe how the second score differs from the first, as the end of a sentence."""
    better = (after < before) if is_lower_better(name) else (after > before)
    if not is_fraction(name):
        if format_value(before) == format_value(after):
            return f"with the same {format_metric_name(name)} ({format_value(after)})"
        verdict = "better" if better else "worse"
        return (
            f"with a {format_metric_name(name)} of {format_value(after)} instead of {format_value(before)} ({verdict})"
        )
    points = abs(100 * (after - before))
    if points < 0.05:
        return "equally accurate" if name == "accuracy" else f"with the same {format_metric_name(name)}"
    amount = f"{format_significant(points) if points >= 10 else format(points, '.1f')} points"
    if name == "accuracy":
        return f"{amount} {'more' if better else 'less'} accurate"
    return f"{amount} {'higher' if better else 'lower'} in {format_metric_name(name)}"
