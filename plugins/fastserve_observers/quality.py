"""Meaning of scores for readers: the main score, its direction, its format and its sampling error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastserve_observers.formatting import format_significant, format_value, to_finite_float

PREFERRED_METRICS = ("f1", "accuracy", "perplexity", "loss")
FRACTION_METRICS = frozenset({"accuracy", "precision", "recall", "exact_match"})
LOWER_IS_BETTER_SUFFIXES = ("loss", "perplexity", "error")
TOKEN_TASKS = frozenset({"token_classification"})
"""Tasks whose accuracy counts words, of which a split has more than rows."""


def find_main_score(scores: Mapping[str, Any]) -> str:
    """Return the name of the main score, or an empty string if there is none."""
    names = [name for name, value in scores.items() if to_finite_float(value) is not None]
    return next((name for name in PREFERRED_METRICS if name in names), names[0] if names else "")


def is_lower_better(name: str) -> bool:
    """Return whether lower values of the metric are better."""
    return name.endswith(LOWER_IS_BETTER_SUFFIXES)


def is_fraction(name: str) -> bool:
    """Return whether the metric is between 0 and 1 and shown in per cent."""
    return name in FRACTION_METRICS or name.endswith(("f1", "accuracy"))


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
    """A score on an axis: as many digits as it takes to tell neighbours apart."""
    return f"{100 * value:.5g} %" if is_fraction(name) else format_value(value, 5)


def compute_sampling_error(task: str, name: str, value: Any, rows: Any) -> float | None:
    """The standard error of an accuracy that was measured on so many rows: sqrt(p (1 - p) / n)."""
    share, known = to_finite_float(value), to_finite_float(rows)
    if name != "accuracy" or task in TOKEN_TASKS or share is None or not known or not 0 <= share <= 1:
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
