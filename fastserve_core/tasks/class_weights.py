"""Weights of classes by which rare ones count as much as common ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def count_labels(targets: Iterable[Any], classes: int) -> list[int]:
    """How often each class occurs in encoded targets, a number a row or a list of them; those below 0 are none."""
    import numpy as np

    counts = np.zeros(classes, dtype=np.int64)
    for target in targets:
        numbers = np.atleast_1d(np.asarray(target, dtype=np.int64))
        counts += np.bincount(numbers[numbers >= 0], minlength=classes)
    return [int(count) for count in counts]


def balance_classes(counts: Sequence[int]) -> list[float]:
    """Return a weight for each class: n / (k * count) as in scikit-learn, 1 for a class that does not occur."""
    classes = sum(1 for count in counts if count)
    return [sum(counts) / (classes * count) if count else 1.0 for count in counts]
