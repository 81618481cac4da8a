"""What a task's scores mean to a reader: which one counts, which way is better, how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastserve_observers.formatting import format_value, number, significant_digits

PREFERRED = ("f1", "accuracy", "perplexity", "loss")
FRACTIONS = frozenset({"accuracy", "precision", "recall", "exact_match"})
LOWER = ("loss", "perplexity", "error")
TOKEN_TASKS = frozenset({"token_classification"})
"""Tasks whose accuracy counts words, of which a split has more than rows."""


def main_score(scores: Mapping[str, Any]) -> str:
    """The name of the score that stands for all of them; empty when there is none."""
    names = [name for name, value in scores.items() if number(value) is not None]
    return next((name for name in PREFERRED if name in names), names[0] if names else "")


def lower_is_better(name: str) -> bool:
    return name.endswith(LOWER)


def is_fraction(name: str) -> bool:
    """Scores between 0 and 1, which are shown in per cent."""
    return name in FRACTIONS or name.endswith(("f1", "accuracy"))


def metric_label(name: str) -> str:
    return name.replace("_", " ")


def show_score(name: str, value: Any) -> str:
    """A score as text: ``88.1 %`` or ``24.31``; a dash when there is none."""
    known = number(value)
    if known is None:
        return "-"
    return f"{100 * known:.1f} %" if is_fraction(name) else format_value(known)


def show_tick(name: str, value: float) -> str:
    """A score on an axis: as many digits as it takes to tell neighbours apart."""
    return f"{100 * value:.5g} %" if is_fraction(name) else format_value(value, 5)


def sampling_error(task: str, name: str, value: Any, rows: Any) -> float | None:
    """The standard error of an accuracy that was measured on so many rows: sqrt(p (1 - p) / n)."""
    share, known = number(value), number(rows)
    if name != "accuracy" or task in TOKEN_TASKS or share is None or not known or not 0 <= share <= 1:
        return None
    return math.sqrt(share * (1 - share) / known)


def difference(name: str, before: float, after: float) -> str:
    """How the second score differs from the first, in words that end a sentence's clause."""
    better = (after < before) if lower_is_better(name) else (after > before)
    if not is_fraction(name):
        if format_value(before) == format_value(after):
            return f"with the same {metric_label(name)} ({format_value(after)})"
        verdict = "better" if better else "worse"
        return f"with a {metric_label(name)} of {format_value(after)} instead of {format_value(before)} ({verdict})"
    points = abs(100 * (after - before))
    if points < 0.05:
        return "equally accurate" if name == "accuracy" else f"with the same {metric_label(name)}"
    amount = f"{significant_digits(points) if points >= 10 else format(points, '.1f')} points"
    if name == "accuracy":
        return f"{amount} {'more' if better else 'less'} accurate"
    return f"{amount} {'higher' if better else 'lower'} in {metric_label(name)}"
